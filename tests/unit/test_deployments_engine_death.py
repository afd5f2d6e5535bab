"""A dead engine's replica: what is refused, what a broken stream ends with, and that the process ends."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.engine_death import GRACE_S, POLL_S, EndWithEngine, end_with

SCOPE = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
TOKEN, BROKEN, DONE = b'data: {"id":"x"}\n\n', b'data: {"error":{"code":500}}\n\n', b"data: [DONE]\n\n"


@dataclass
class Engine:
    """An app that says these messages, and whose engine is dead after `lives` of them."""

    says: list[Message]
    lives: int = 99
    said: int = 0
    calls: int = 0
    sent: list[Message] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        for message in self.says:
            self.said += 1
            await send(message)

    def dead(self) -> bool:
        return self.said > self.lives

    async def asked(self, method: str = "POST") -> list[Message]:
        async def send(message: Message) -> None:
            self.sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"{}"}

        await EndWithEngine(self, self.dead)({**SCOPE, "method": method}, receive, send)
        return self.sent


def body(piece: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": piece, "more_body": more}


def text(sent: list[Message]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent)


async def test_while_the_engine_lives_nothing_is_changed() -> None:
    says = [START, body(TOKEN), body(TOKEN), body(DONE), body(b"", more=False)]
    assert await Engine(says).asked() == says


async def test_an_empty_answer_is_passed_on() -> None:
    says = [{**START, "status": 204}, body(b"", more=False)]
    assert await Engine(says).asked() == says


@pytest.mark.parametrize(
    "says",
    [
        [START, body(BROKEN), body(DONE), body(b"", more=False)],
        [{**START, "status": 500}, body(b"{}", more=False)],
        [{**START, "status": 500}, body(b""), body(b"{}"), body(b"", more=False)],
    ],
    ids=["stream", "whole", "in pieces"],
)
async def test_what_had_no_answer_yet_is_refused_in_one_piece(says: list[Message]) -> None:
    start, refusal = await dying(says)
    assert start["status"] == 503
    assert json.loads(refusal["body"])["error"]["code"] == "engine_failed"


async def dying(says: list[Message]) -> list[Message]:
    """The engine dies once the request is with it."""
    return await Engine(says, lives=1).asked()


async def test_an_error_of_a_living_engine_stays_what_it_is() -> None:
    says = [{**START, "status": 500}, body(b"{}", more=False)]
    assert await Engine(says).asked() == says


async def test_a_stream_that_breaks_ends_with_the_error_event() -> None:
    sent = await Engine([START, body(TOKEN), body(BROKEN), body(DONE), body(b"", more=False)], lives=2).asked()
    assert text(sent) == TOKEN + BROKEN
    assert not sent[-1]["more_body"]


async def test_so_does_one_whose_engine_lives_on() -> None:
    sent = await Engine([START, body(TOKEN), body(BROKEN + DONE), body(b"", more=False)]).asked()
    assert text(sent) == TOKEN + BROKEN


async def test_what_comes_after_the_engines_death_does_not_reach_it() -> None:
    engine = Engine([START], lives=-1)
    assert [message.get("status") for message in await engine.asked()] == [503, None]
    assert engine.calls == 0


async def test_reading_is_not_refused() -> None:
    says = [START, body(b"{}", more=False)]
    assert await Engine(says, lives=-1).asked("GET") == says


def test_the_process_ends_once_the_engine_is_dead() -> None:
    looks = iter([False, False, True])
    ended: list[int] = []
    slept: list[float] = []
    end_with(lambda: next(looks), ended.append, slept.append)
    assert ended == [1]
    assert slept == [POLL_S, POLL_S, GRACE_S]
