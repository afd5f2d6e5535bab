"""A service under attack: no 500, nothing without an answer, and the others are served as before."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from loadtests.attack.crowds import crowd
from loadtests.attack.malformed import Malformer
from loadtests.attack.wire import Outcome, send_all
from tests.serve.service import RunningService

pytestmark = pytest.mark.serve

CHAT = "/v1/chat/completions"
MODEL = "pocket-1b"
MESSAGES = [{"role": "user", "content": "Hello!"}]
ASKED = {"model": MODEL, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
COUNT, IDLE = 1500, 500
MANAGEMENT = (
    "abort_requests", "collective_rpc", "pause", "resume", "sleep", "wake_up", "server_info", "start_profile", "load",
    "stop_profile", "reset_prefix_cache", "update_weights", "init_weight_transfer_engine", "tokenizer_info", "version",
    "scale_elastic_ep", "fault_tolerance/apply", "invocations", "inference/v1/generate", "is_sleeping",
)  # fmt: skip


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


REFUSED: dict[str, dict[str, Any]] = {
    "template": {"chat_template": "{{ 7 * 7 }}"},
    "template in its arguments": {"chat_template_kwargs": {"chat_template": "{{ 7 * 7 }}"}},
    "picture": {"messages": [{"role": "user", "content": [picture("http://[::1]:9/")]}]},
    "file": {"messages": [{"role": "user", "content": [picture("file:///etc/passwd")]}]},
    "cache": {"kv_transfer_params": {"remote_host": "127.0.0.1"}},
    "ambiguous grammar": {"structured_outputs": {"grammar": "root ::= s\ns ::= s s | [a-z]"}},
    "expression": {"structured_outputs": {"regex": "(.*a){30}.{300}"}},
    "round schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}},
    "answers": {"n": 100_000},
    "words": {"stop": ["x"] * 100},
    "a number of 71 bits": {"top_k": 1 << 70},
    "chosen tokens": {"allowed_token_ids": [1 << 40]},
}


def address(service: RunningService) -> tuple[str, int]:
    parts = urlsplit(service.url)
    return str(parts.hostname), int(parts.port or 80)


def told(http: httpx.Client) -> str:
    answer = http.post(CHAT, json=ASKED)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


async def test_malformed_requests_are_all_answered_and_change_nothing(
    service: RunningService, http: httpx.Client
) -> None:
    before = told(http)
    outcome = Outcome()
    await send_all(*address(service), Malformer(MODEL, seed=1).many(COUNT), outcome)
    assert outcome.faults == []
    assert outcome.hung == 0
    assert sum(outcome.statuses.values()) == COUNT
    assert told(http) == before


async def test_idle_connections_hold_up_nobody(service: RunningService, ahttp: httpx.AsyncClient) -> None:
    async with crowd(*address(service), IDLE) as there:
        assert there.refused == 0
        assert (await ahttp.post(CHAT, json=ASKED)).status_code == 200


@pytest.mark.parametrize("name", MANAGEMENT)
def test_what_manages_an_engine_is_nobodys(http: httpx.Client, name: str) -> None:
    for path in (f"/v1/{name}", f"/{name}"):
        assert http.post(path, json={"model": MODEL}).status_code == 404
        assert http.get(path).status_code == 404


@pytest.mark.parametrize("more", REFUSED.values(), ids=list(REFUSED))
def test_what_would_reach_beyond_the_request_is_refused(http: httpx.Client, more: dict[str, Any]) -> None:
    answer = http.post(CHAT, json={**ASKED, **more})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_what_vllm_itself_refuses_of_our_own_path_is_told(http: httpx.Client) -> None:
    answer = http.post("/generate", json={**ASKED, "response_format": {"type": "json_schema"}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format"), answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": ["Hi"] * 100, "n": 100}), ("/v1/completions", {"prompt": ["Hi"] * 300}),
        (f"{CHAT}/batch", {"messages": [MESSAGES] * 300}),
    ],
)  # fmt: skip
def test_one_request_is_no_flood(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    assert http.post(path, json={"model": MODEL, "max_tokens": 1, **body}).status_code == 400


async def test_two_requests_of_one_id_are_two_requests(ahttp: httpx.AsyncClient) -> None:
    """One of them leaves; the other gets all of its own answer."""
    same = {"x-request-id": "the-same"}
    long = {**ASKED, "max_tokens": 400, "ignore_eos": True, "stream": True}
    alone = await ahttp.post(CHAT, json=long)
    async with ahttp.stream("POST", CHAT, json=long, headers=same) as stays:
        async with ahttp.stream("POST", CHAT, json={**long, "messages": [{"role": "user", "content": "Who?"}]},
                                headers=same) as leaves:  # fmt: skip
            await anext(leaves.aiter_bytes())
        whole = "".join([piece async for piece in stays.aiter_text()])
    assert text_of(whole) == text_of(alone.text)
    assert whole.rstrip().endswith("data: [DONE]")


def text_of(stream: str) -> str:
    events = [line[6:] for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for each in events for choice in json.loads(each)["choices"])


async def test_others_are_served_beside_a_flood_of_prompts(ahttp: httpx.AsyncClient) -> None:
    flood = {"model": MODEL, "prompt": ["Hello " * 200] * 200, "max_tokens": 32, "ignore_eos": True}
    floods = [asyncio.create_task(ahttp.post("/v1/completions", json=flood)) for _ in range(4)]
    assert (await ahttp.post(CHAT, json=ASKED)).status_code == 200
    assert {(await each).status_code for each in floods} <= {200, 429, 503}
