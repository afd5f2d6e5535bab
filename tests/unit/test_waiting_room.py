"""A replica's waiting room: how many it takes, what requests cost there, and the gate before it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from deployments.config import Hardware, ModelSpec
from deployments.errors import DeadlineExceeded, Overloaded
from deployments.gate import Gate
from deployments.metering import Used
from deployments.principal import HEADER, SECRET_HEADER, Principal
from deployments.secret import Door
from deployments.waiting_room import ANSWER_TOKENS, WaitingRoom, request_cost, turns_of

CHAT, SECRET = "/v1/chat/completions", "5ec2e7"
FLOOD, QUIET = Principal("flood", request="f"), Principal("quiet", request="q")


def spec(**more: Any) -> ModelSpec:
    return ModelSpec(id="m", source="x/y", hardware=Hardware(kind="cpu"), **more)


@pytest.mark.parametrize(
    ("sequences", "taken", "queued", "places"), [(64, 256, 256, 96), (64, 64, 10, 64), (1, 1, 1, 1), (8, 512, 0, 12)]
)
async def test_it_takes_as_many_as_the_profile_says(sequences: int, taken: int, queued: int, places: int) -> None:
    turns = turns_of(spec(max_sequences=sequences, max_ongoing_requests=taken, max_queued_requests=queued))
    anybody = Principal()
    asking = [asyncio.create_task(turns.enter(turns.turn(anybody, 10))) for _ in range(taken + queued + 5)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert turns.inside == places
    assert turns.waiting == taken + queued - places
    refused = [task.exception() for task in asking if task.done() and task.exception()]
    assert [type(error) for error in refused] == [Overloaded] * 5
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_a_flood_leaves_sequences_free() -> None:
    turns = turns_of(spec(max_sequences=64))
    asking = [asyncio.create_task(turns.enter(turns.turn(FLOOD, 10))) for _ in range(200)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert turns.inside == 56
    await asyncio.wait_for(turns.enter(turns.turn(QUIET, 10)), 1)
    assert turns.inside == 57
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, ANSWER_TOKENS), ({"max_tokens": 10}, 10), ({"max_completion_tokens": 5, "max_tokens": 10}, 5),
        ({"max_tokens": 10, "n": 3}, 30), ({"max_tokens": "x"}, ANSWER_TOKENS), ({"max_tokens": -1}, ANSWER_TOKENS),
        ({"max_tokens": True}, ANSWER_TOKENS), ({"max_tokens": 10, "n": 10**9}, 10), ({"max_tokens": 1, "n": 999}, 64),
    ],
)  # fmt: skip
def test_a_request_costs_its_prompt_and_its_answers(body: dict[str, Any], tokens: int) -> None:
    assert request_cost(400, body) == 100 + tokens


async def test_what_it_took_counts_instead_of_the_guess() -> None:
    room = WaitingRoom(turns_of(spec()))
    async with room.turn(FLOOD, 1000) as turn:
        room.used(Used(FLOOD, "m", 5, 7, 0, "done", None, 0.1))
        assert turn.cost == 12
        room.used(Used(FLOOD, "m", 5, 0, 0, "done", None, 0.1))
        assert turn.cost == 17
        room.used(Used(QUIET, "m", 5, 100, 0, "done", None, 0.1))
        assert turn.cost == 17
    room.used(Used(FLOOD, "m", 5, 7, 0, "done", None, 0.1))
    assert room.turns.inside == 0


class Engine:
    """Answers when it is told to; notes what it was asked."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(json.loads((await receive())["body"]))
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b"{}"})


def client(engine: Engine, room: WaitingRoom) -> httpx.AsyncClient:
    gate = Gate(engine, {CHAT: frozenset({"priority"})}, 10_000, "generate", door=Door(SECRET), room=room)
    return httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://replica")


def sent_by(key: str, **more: str) -> dict[str, str]:
    return {SECRET_HEADER: SECRET, HEADER: Principal(key, request=key).to_header(), **more}


async def test_the_gate_has_requests_wait_and_refuses_what_is_too_much() -> None:
    engine, room = Engine(), WaitingRoom(turns_of(spec(max_ongoing_requests=1, max_queued_requests=1)))
    async with client(engine, room) as http:
        asking = [asyncio.create_task(http.post(CHAT, json={}, headers=sent_by("a"))) for _ in range(3)]
        while not any(task.done() for task in asking):
            await asyncio.sleep(0)
        (refused,) = [task.result() for task in asking if task.done()]
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1
        engine.go.set()
        statuses = [(await task).status_code for task in asking]
        assert sorted(statuses) == [200, 200, 429]
    assert (room.turns.inside, room.turns.waiting) == (0, 0)


async def test_a_deadline_passes_in_the_queue() -> None:
    engine, room = Engine(), WaitingRoom(turns_of(spec(max_ongoing_requests=1, max_queued_requests=1)))
    async with client(engine, room) as http:
        first = asyncio.create_task(http.post(CHAT, json={}, headers=sent_by("a")))
        while not engine.asked:
            await asyncio.sleep(0)
        late = await http.post(CHAT, json={}, headers=sent_by("b", **{"x-request-timeout": "0.02"}))
        assert (late.status_code, late.json()["error"]["code"]) == (504, DeadlineExceeded.reason)
        engine.go.set()
        assert (await first).status_code == 200
    assert len(engine.asked) == 1


async def test_nobody_puts_himself_before_others_in_the_engine() -> None:
    engine, room = Engine(), WaitingRoom(turns_of(spec()))
    engine.go.set()
    async with client(engine, room) as http:
        for given, wanted in ((-5, 0), (3, 3), (None, None)):
            body = {} if given is None else {"priority": given}
            assert (await http.post(CHAT, json=body, headers=sent_by("a"))).status_code == 200
            assert engine.asked[-1].get("priority") == wanted


async def test_without_the_secret_nothing_is_asked() -> None:
    engine, room = Engine(), WaitingRoom(turns_of(spec()))
    async with client(engine, room) as http:
        for headers in ({}, {SECRET_HEADER: "other"}, {HEADER: Principal("a").to_header()}):
            refused = await http.post(CHAT, json={}, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "not_from_edge")
    assert engine.asked == []
