"""The Python client, in processes of its own: a script finds the service by its name and needs no address."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.serve.service import ROOT, RunningService
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.serve

QUESTION = "Passage: The willow partition has a time limit of 48 hours.\n\nQuestion: How long may a job run on willow?"
README = """
from app.client import Client

with Client("{service}") as corral:
    print(corral.chat("pocket-8b", "Hello! Who are you?", max_tokens=16, temperature=0).text)
"""
EVERYTHING = """
import json
from app.client import Client
from deployments.errors import ServingError

asked = {{"max_tokens": 16, "temperature": 0}}
found = {{}}
with Client("{service}") as corral:
    reply = corral.chat("pocket-8b", [{{"role": "user", "content": "Hello! Who are you?"}}], **asked)
    found["chat"] = [reply.text, reply.model, reply.finish_reason, reply.usage.completion_tokens]
    deltas = list(corral.stream("pocket-8b", "Hello! Who are you?", **asked))
    found["stream"] = ["".join(delta.text for delta in deltas), len(deltas), deltas[-1].usage.completion_tokens]
    found["generate"] = corral.generate("pocket-8b", "Hello! Who are you?", **asked)
    found["adapter"] = corral.generate("{adapter}", "Hello! Who are you?", **asked)
    items = [{{"model": "pocket-1b", "prompt": "Hello!"}}, {{"model": "nope", "prompt": "Hello!"}},
             {{"model": "pocket-8b", "prompt": "Hello!"}}, {{"prompt": "no model"}}]
    found["bulk"] = [getattr(line, "text", type(line).__name__) for line in corral.bulk(items, **asked)]
    result = corral.tribunal({question!r})
    panel = [step.model for step in result.trace][:3]
    found["tribunal"] = [result.answer, panel, result.to_json()["cost"]["single"]["model"]]
    alone = corral.tribunal_events({question!r}, "default", config={{"strategy": "single"}})
    found["told"] = [event["type"] for event in alone]
    found["virtual"] = corral.generate("tribunal/nested", {question!r})
    found["errors"] = []
    for model, prompt, more in (("nope", "Hi", {{}}), ("pocket-8b", "", {{}}), ("pocket-8b", "Hi", {{"max_tokens": 0}}),
                                ("pocket-8b", "llama " * 2048, {{}})):
        try:
            corral.chat(model, prompt, **more)
        except ServingError as error:
            found["errors"].append([type(error).__name__, error.reason])
print(json.dumps(found))
"""
ASYNCHRONOUS = """
import asyncio, json
from app.client import AsyncClient

async def main():
    corral = AsyncClient.connect("{service}")
    models = ["pocket-1b", "pocket-8b"] * 3
    texts = await asyncio.gather(*(corral.generate(model, "Hello!", max_tokens=8, temperature=0) for model in models))
    replies = await corral.bulk([{{"model": "pocket-1b", "prompt": "Hello!", "max_tokens": 8, "temperature": 0}}] * 2)
    stream = corral.stream("pocket-8b", "Write and write.", max_tokens=1900, ignore_eos=True)
    pieces = [delta.text async for delta, _ in zip_async(stream, range(5))]
    print(json.dumps([texts, [reply.text for reply in replies], pieces]), flush=True)
    await stream.aclose()
    input()

async def zip_async(stream, numbers):
    for number in numbers:
        yield await anext(stream), number

asyncio.run(main())
"""


def start(service: RunningService, script: str) -> subprocess.Popen[str]:
    text = script.format(service=service.name, adapter="pocket-8b-tilted", question=QUESTION)
    return subprocess.Popen(
        [sys.executable, "-c", text], env=service.environment, cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(service: RunningService, script: str) -> str:
    with start(service, script) as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return output


def over_http(service: RunningService, model: str, **more: Any) -> str:
    answered = service.corral("generate", "Hello! Who are you?", "--model", model, "--max-tokens", "16", "--json")
    return str(json.loads(answered.stdout)["text"])


def test_the_readmes_lines_print_an_answer_and_nothing_else(service: RunningService) -> None:
    assert run(service, README).rstrip("\n") == over_http(service, "pocket-8b")


def test_everything_the_client_can_do(service: RunningService) -> None:
    found = json.loads(run(service, EVERYTHING).splitlines()[-1])
    text, model, finish_reason, tokens = found["chat"]
    assert text == over_http(service, "pocket-8b")
    assert (model, finish_reason in ("stop", "length"), 1 <= tokens <= 16) == ("pocket-8b", True, True)
    streamed, pieces, streamed_tokens = found["stream"]
    assert (streamed, streamed_tokens) == (text, tokens)
    assert pieces > 1
    assert found["generate"] == text
    assert found["adapter"] != text
    first, unknown, other, nameless = found["bulk"]
    assert first
    assert other
    assert (unknown, nameless) == ("UnknownModel", "BadRequest")
    answer = "The time limit of willow is 48 hours."
    assert found["tribunal"] == [answer, ["pocket-1b", "narrow", "pocket-8b"], "pocket-8b"]
    assert found["told"][0] == "step.started"
    assert found["told"][-1] == "result"
    assert found["virtual"] == answer
    assert found["errors"] == [
        ["UnknownModel", "model_not_found"], ["BadRequest", "invalid_request"], ["BadRequest", "invalid_request"],
        ["PromptTooLong", "context_length_exceeded"],
    ]  # fmt: skip


def test_the_asynchronous_client_and_closing_a_stream_frees_its_slot(service: RunningService) -> None:
    until(lambda: service.running("pocket-8b") == 0, what="an idle pocket-8b")
    with start(service, ASYNCHRONOUS) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        texts, replies, pieces = json.loads(line)
        assert texts == texts[:2] * 3
        assert replies == texts[:1] * 2
        assert any(pieces)
        # The process still lives here, so nothing but the closed stream can have freed it.
        until(lambda: service.running("pocket-8b") == 0, what="a free slot")
        assert process.poll() is None
        process.communicate("\n", timeout=PATIENCE_S)
    assert process.returncode == 0


def test_without_a_service_the_client_says_how_to_start_one(service: RunningService) -> None:
    with start(service, README.replace("{service}", "nowhere")) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "corral up" in errors.splitlines()[-1]
