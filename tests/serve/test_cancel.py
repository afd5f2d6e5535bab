"""Whoever hangs up frees the slot in the engine, on every way to it."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.serve.hang_up import asking, read_until
from tests.serve.herd import BUFSIZE
from tests.serve.service import RunningService
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.serve

MODEL = "pocket-8b"
LONG = 1900
"""Tokens of an answer that takes many seconds."""
MESSAGES = [{"role": "user", "content": "Write and write."}]
CHAT = {"model": MODEL, "messages": MESSAGES, "max_tokens": LONG, "ignore_eos": True}
# /generate takes no ignore_eos; JSON of a schema with one endless text goes on as long.
ENDLESS = {"type": "json_schema", "json_schema": {"name": "endless", "schema": {"type": "string", "minLength": 4000}}}
GENERATE = {"model": MODEL, "prompt": "Write and write.", "max_tokens": LONG, "response_format": ENDLESS}
RELAYED = {"user": "x" * BUFSIZE * 2, **CHAT}
"""The edge does not find the model, which comes too late, so the gateway passes it on."""


def written(service: RunningService) -> float:
    return sum(service.series("vllm:generation_tokens_total", MODEL))


def passed_on(service: RunningService, path: str) -> float:
    """Requests of that path that the gateway has ended."""
    text = httpx.get(f"{service.url}/metrics", timeout=PATIENCE_S, trust_env=False).text
    found = re.findall(rf'^corral_gateway_requests_total{{[^}}]*route="{path}"[^}}]*}} (\S+)$', text, re.M)
    return sum(map(float, found))


def idle(service: RunningService) -> bool:
    return service.running(MODEL) == 0


STREAMS = {
    "chat, straight to the replica": ("/v1/chat/completions", {**CHAT, "stream": True}, 0),
    "chat, through the gateway": ("/v1/chat/completions", {**RELAYED, "stream": True}, 1),
    "completion": ("/v1/completions", {**CHAT, "messages": None, "prompt": "Write", "stream": True}, 0),
    "generate": ("/generate", {**GENERATE, "stream": True}, 1),
}
"""Path, body, and how many requests the gateway has of it."""
WHOLE = [
    pytest.param("/v1/chat/completions", CHAT, 0, id="chat, straight to the replica"),
    pytest.param("/v1/chat/completions", RELAYED, 1, id="chat, through the gateway"),
    pytest.param("/generate", GENERATE, 1, id="generate"),
    pytest.param("/bulk", {"items": [GENERATE] * 4}, 1, id="bulk"),
    pytest.param("/bulk", {"items": [GENERATE] * 4, "stream": True}, 1, id="bulk as lines"),
]


@pytest.mark.parametrize(("path", "body", "relayed"), STREAMS.values(), ids=STREAMS)
def test_hanging_up_in_a_stream_frees_the_slot(
    service: RunningService, path: str, body: dict[str, Any], relayed: int
) -> None:
    """How soon `python -m loadtests.leaving` measures."""
    until(lambda: idle(service), what=f"an idle {MODEL}")
    before, ended = written(service), passed_on(service, path)
    with asking(service.url, path, {key: value for key, value in body.items() if value is not None}) as connection:
        read_until(connection, b"data: ", 5)
        assert service.running(MODEL) == 1
    until(lambda: idle(service), what="a free slot")
    assert 0 < written(service) - before < LONG
    until(lambda: passed_on(service, path) >= ended + relayed, what="the gateway's end of it")
    assert passed_on(service, path) == ended + relayed


@pytest.mark.parametrize(("path", "body", "relayed"), WHOLE)
def test_hanging_up_while_waiting_frees_the_slots(
    service: RunningService, path: str, body: dict[str, Any], relayed: int
) -> None:
    until(lambda: idle(service), what=f"an idle {MODEL}")
    before, ended = written(service), passed_on(service, path)
    requests = len(body.get("items", [body]))
    with asking(service.url, path, body):
        until(lambda: service.running(MODEL) == requests, what="the requests in the engine")
    until(lambda: idle(service), what="free slots")
    assert written(service) - before < LONG * requests
    until(lambda: passed_on(service, path) >= ended + relayed, what="the gateway's end of it")
    assert passed_on(service, path) == ended + relayed


def test_many_who_hang_up_at_once_leave_nothing_behind(service: RunningService) -> None:
    until(lambda: idle(service), what=f"an idle {MODEL}")
    before = written(service)
    with ExitStack() as connections:
        for _ in range(24):
            connections.enter_context(asking(service.url, "/v1/chat/completions", {**CHAT, "stream": True}))
        until(lambda: service.running(MODEL) == 24, what="24 sequences in the engine")
    until(lambda: idle(service), what="free slots")
    assert written(service) - before < LONG * 24
