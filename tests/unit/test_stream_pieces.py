"""The pieces of a streamed answer: a flood's are fewer beside a quiet key, everybody else's go out as they come."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.gate import Gate
from deployments.principal import ANYBODY, HEADER, SECRET_HEADER, Principal
from deployments.quiet_keys import PIECE_S
from deployments.secret import Door
from deployments.stream_pieces import in_pieces
from deployments.turns import Turns
from deployments.waiting_room import WaitingRoom
from tests.unit.load_scaling_fakes import in_virtual_time, now
from tests.unit.turns_requests import FLOOD, QUIET, Request, all_ended, asked

CHAT, SECRET = "/v1/chat/completions", "5ec2e7"
TEXT: Message = {"type": "http.response.body", "body": b"a", "more_body": True}
END: Message = {"type": "http.response.body", "body": b""}


async def sent_at(request: Request) -> list[float]:
    """When each piece of an answer goes out that the engine has at once."""
    times = list[float]()

    async def send(_: Message) -> None:
        times.append(now())

    paced, began = in_pieces(send, request.turn), now()
    await paced({"type": "http.response.start", "status": 200, "headers": []})
    for message in (TEXT, TEXT, TEXT, TEXT, END):
        await paced(message)
    return [time - began for time in times]


@pytest.mark.parametrize(
    ("key", "at"), [(FLOOD, [0, 0, 0, PIECE_S, 2 * PIECE_S, 3 * PIECE_S]), (QUIET, [0] * 6)], ids=["flood", "quiet"]
)
def test_the_first_piece_and_a_quiet_key_s_go_out_at_once(key: Principal, at: list[float]) -> None:
    async def run() -> list[float]:
        turns = Turns(16, 100, now, reserve=2, beside_quiet=0.25)
        requests = {each: await asked(turns, each, count, streamed=True) for each, count in ((FLOOD, 14), (QUIET, 1))}
        times = await sent_at(requests[key][0])
        await all_ended(*requests.values())
        return times

    assert in_virtual_time(run) == pytest.approx(at)


class Engine:
    """Streams two pieces, and notes how many prompts were being read when each was sent."""

    def __init__(self, turns: Turns) -> None:
        self._turns, self.reading = turns, list[int]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for message in (TEXT, TEXT, END):
            self.reading.append(self._turns._quiet.reading)
            await send(message)


@pytest.mark.parametrize(
    ("principal", "body", "reading"),
    [
        (QUIET, {"stream": True}, [1, 0, 0]), (QUIET, {"stream": False}, [0, 0, 0]),
        (ANYBODY, {"stream": True}, [0, 0, 0]),
    ],
    ids=["streamed", "whole", "without a key"],
)  # fmt: skip
async def test_the_gate_tells_of_a_stream_s_first_token(
    principal: Principal, body: dict[str, bool], reading: list[int]
) -> None:
    turns = Turns(16, 100, reserve=2, beside_quiet=0.25)
    engine, flood = Engine(turns), await asked(turns, FLOOD, 14)
    gate = Gate(engine, {CHAT: frozenset({"stream"})}, 1000, "generate", door=Door(SECRET), room=WaitingRoom(turns))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://replica") as http:
        headers = {SECRET_HEADER: SECRET, HEADER: principal.to_header()}
        assert (await http.post(CHAT, json=body, headers=headers)).content == b"aa"
    assert engine.reading == reading
    await all_ended(flood)


async def test_one_that_is_cut_off_between_two_pieces_leaves() -> None:
    turns = Turns(16, 100, reserve=2, beside_quiet=0.25)
    flood, quiet = await asked(turns, FLOOD, 14, streamed=True), await asked(turns, QUIET, 1, streamed=True)
    sending = asyncio.create_task(sent_at(flood[0]))
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert sending.cancelled()
    await all_ended(flood, quiet)
    assert (turns.inside, turns._quiet.reading) == (0, 0)
