"""A request's own deadline: what is told when it passes before, within and after an answer."""

from __future__ import annotations

import asyncio
import json

import pytest
import uvloop
from starlette.types import Message, Send

from deployments.deadline import HEADER, LEFT, left_of, timeout_of, within
from deployments.errors import BadRequest, DeadlineExceeded

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
STREAM: Message = {**START, "headers": [(b"Content-Type", b"text/event-stream; charset=utf-8")]}


def piece(text: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": text, "more_body": more}


class Client:
    """Keeps what it was sent."""

    def __init__(self) -> None:
        self.got: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self.got.append(message)


@pytest.mark.parametrize(("given", "seconds"), [(b"1", 1.0), (b"0.25", 0.25), (b"86400", 86400.0), (b" 2 ", 2.0)])
def test_seconds_are_read(given: bytes, seconds: float) -> None:
    assert timeout_of({"headers": [(HEADER.encode(), given)]}) == seconds


def test_without_the_header_there_is_none() -> None:
    assert timeout_of({"headers": [(b"accept", b"1")]}) is None


@pytest.mark.parametrize("given", [b"", b"soon", b"0", b"-1", b"nan", b"inf", b"1e9", b"86401", b"\xff", b"1,2"])
def test_what_is_no_time_is_refused_by_name(given: bytes) -> None:
    with pytest.raises(BadRequest, match="x-request-timeout") as caught:
        timeout_of({"headers": [(HEADER.encode(), given)]})
    assert caught.value.param == HEADER


@pytest.mark.parametrize(
    ("told", "left_s"), [(b"1500", 1.5), (b"1", 0.001), (b"2000", 2.0), (b"3000", 2.0), (b"", 2.0), (b"-5", 2.0)]
)
def test_what_the_edge_took_of_it_is_not_given_again(told: bytes, left_s: float) -> None:
    given = (HEADER.encode(), b"2")
    assert left_of({"headers": [(LEFT, told), given]}) == left_s
    assert timeout_of({"headers": [(LEFT, told), given]}) == 2
    assert left_of({"headers": [given]}) == 2
    assert left_of({"headers": [(LEFT, told)]}) is None


async def test_what_is_in_time_passes_as_it_is() -> None:
    client = Client()

    async def answer(send: Send) -> None:
        for message in (START, piece(b"{", more=True), piece(b"}", more=False)):
            await send(message)

    for seconds in (None, 60.0):
        client.got.clear()
        await within(seconds, client, answer)
        assert client.got == [START, piece(b"{", more=True), piece(b"}", more=False)]


async def test_before_anything_is_sent_it_is_raised() -> None:
    client = Client()

    async def answer(send: Send) -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
        await within(0.01, client, answer)
    assert client.got == []


async def test_it_ends_when_nothing_is_left_and_names_what_was_given() -> None:
    async def answer(send: Send) -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match="within the 600 s that the request gave"):
        await asyncio.wait_for(within(600, Client(), answer, 0.01), 60)


async def test_what_is_answered_because_it_was_ended_does_not_count() -> None:
    client = Client()

    async def answer(send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await send(START)
            await send(piece(b"{}", more=False))

    with pytest.raises(DeadlineExceeded):
        await within(0.01, client, answer)
    assert client.got == []


def test_nor_where_the_clock_is_as_coarse_as_the_replicas() -> None:
    """uvloop, on which Serve's replicas run, counts milliseconds: a timer fires when its time is only just reached."""

    async def tries() -> list[Message]:
        told: list[Message] = []

        async def send(message: Message) -> None:
            told.append(message)

        async def answer(send: Send) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send(piece(b"null", more=False))
                raise

        for number in range(1, 100):
            with pytest.raises(DeadlineExceeded):
                await within(number / 10_000, send, answer)
        return told

    loop = uvloop.new_event_loop()
    try:
        assert loop.run_until_complete(tries()) == []
    finally:
        loop.close()


async def test_an_answer_that_comes_late_without_being_ended_does_not_count() -> None:
    client, loop = Client(), asyncio.get_running_loop()

    async def answer(send: Send) -> None:
        until = loop.time() + 0.02
        while loop.time() < until:
            pass  # nobody can end it meanwhile
        await send(START)

    with pytest.raises(DeadlineExceeded):
        await within(0.01, client, answer)
    assert client.got == []


async def test_a_stream_ends_with_an_error_event() -> None:
    client = Client()

    async def answer(send: Send) -> None:
        await send(STREAM)
        await send(piece(b"data: 1\n\n", more=True))
        await asyncio.Event().wait()

    await within(0.01, client, answer)
    last = client.got[-1]
    assert json.loads(last["body"].removeprefix(b"data: "))["error"]["code"] == "deadline_exceeded"
    assert not last.get("more_body", False)
    assert client.got[:-1] == [STREAM, piece(b"data: 1\n\n", more=True)]


async def test_another_answer_that_has_begun_is_cut_off() -> None:
    client = Client()

    async def answer(send: Send) -> None:
        await send(START)
        await asyncio.Event().wait()

    with pytest.raises(ConnectionAbortedError):
        await within(0.01, client, answer)


async def test_an_error_of_its_own_passes() -> None:
    async def answer(send: Send) -> None:
        raise TimeoutError("another")

    with pytest.raises(TimeoutError, match="another"):
        await within(60, Client(), answer)
