"""Before Serve's own way: a full queue turns requests away there, and nothing else is kept from its way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import FULL_MS, Overloaded
from deployments.front import FULL_QUEUE, FullQueue, UnlessFull, middlewares
from deployments.principal import HEADER, SECRET_HEADER, Principal
from deployments.secret import TOKEN_PATH, VARIABLE, Door, OnlyFromInside

SECRET = "5ec2e7" * 10
FLOOD, QUIET = Principal("flood"), Principal("quiet")
CHAT = "/models/llama/v1/chat/completions"


def full(principal: Principal) -> Overloaded | None:
    return Overloaded("The queue is full.", 7) if principal.key == FLOOD.key else None


def scope_of(principal: Principal = FLOOD, path: str = CHAT, method: str = "POST", kind: str = "http") -> Scope:
    headers = [(SECRET_HEADER.encode(), SECRET.encode()), (HEADER.encode(), principal.to_header().encode())]
    return {"type": kind, "path": path, "method": method, "headers": headers}


async def passed(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "passed"})


async def told(scope: Scope, queue: FullQueue) -> list[Message]:
    """What was sent; `passed` is of who got through. Nothing is read of who did not."""
    sent = list[Message]()

    async def receive() -> Message:
        raise AssertionError("it was read")

    async def send(message: Message) -> None:
        sent.append(message)

    await UnlessFull(passed, Door(SECRET), queue)(scope, receive, send)
    return sent


@pytest.fixture
def queue() -> FullQueue:
    queue = FullQueue()
    queue.is_of(full)
    return queue


async def test_a_refusal_is_in_openai_s_shape_and_says_when(queue: FullQueue) -> None:
    start, body = await told(scope_of(), queue)
    headers = dict(start["headers"])
    assert (start["status"], headers[b"retry-after"], headers.get(FULL_MS.encode())) == (429, b"7", None)
    error = json.loads(body["body"])["error"]
    assert (error["code"], error["type"]) == ("queue_full", "rate_limit_error")


@pytest.mark.parametrize(
    "scope",
    [
        scope_of(QUIET), scope_of(method="GET"), scope_of(path="/models/llama/tokenize"), scope_of(path="/generate"),
        scope_of(path="/v1/chat/completions"), scope_of(path="/"), scope_of(kind="websocket"),
    ],
    ids=["another key", "what only reads", "no turn", "the gateway's", "no model", "no path", "no request"],
)  # fmt: skip
async def test_all_else_goes_its_way(queue: FullQueue, scope: Scope) -> None:
    assert await told(scope, queue) == [{"type": "passed"}]


async def test_a_generation_has_a_queue_like_any_other(queue: FullQueue) -> None:
    assert (await told(scope_of(path="/models/llama:2/v1/completions"), queue))[0]["status"] == 429


async def test_a_refusal_says_for_how_long_it_holds() -> None:
    def full_for_a_while(principal: Principal) -> Overloaded:
        refusal = Overloaded("The queue is full.", 7)
        refusal.holds_ms = 40
        return refusal

    queue = FullQueue()
    queue.is_of(full_for_a_while)
    start, _ = await told(scope_of(), queue)
    assert dict(start["headers"])[FULL_MS.encode()] == b"40"


async def test_a_process_without_a_queue_turns_nobody_away() -> None:
    assert await told(scope_of(), FullQueue()) == [{"type": "passed"}]


def test_who_has_no_secret_is_refused_before_any_queue_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    monkeypatch.delenv(TOKEN_PATH, raising=False)
    found = middlewares()
    kinds: list[Any] = [each.cls for each in found]
    assert kinds == [OnlyFromInside, UnlessFull]
    assert found[1].args[1] is FULL_QUEUE
