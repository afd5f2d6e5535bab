"""A request that its replica left unanswered is asked elsewhere once: no more, and not where something was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from app.edge import Edge
from tests.edge.backend import Backend, running
from tests.edge.conftest import MakeSpec

CHAT = "/v1/chat/completions"
BODY = {"model": "m-a"}
REFUSAL = b"HTTP/1.1 503 X\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
BEGUN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: x\n\n"
ENDED_IN_THE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-ty"


@dataclass
class Dying:
    """Takes one request, says `last`, and is dead from then on: its port is closed. Until then its checks pass."""

    last: bytes
    asked: int = 0
    server: asyncio.Server | None = None
    port: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /-/healthz"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        else:
            self.asked += 1
            assert self.server
            self.server.close()
            writer.write(self.last)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def dying(last: bytes) -> AsyncIterator[Dying]:
    replica = Dying(last)
    async with await asyncio.start_server(replica, "127.0.0.1") as server:
        replica.server, replica.port = server, server.sockets[0].getsockname()[1]
        yield replica


@pytest.fixture
async def sound() -> AsyncIterator[Backend]:
    async with running("sound") as backend:
        yield backend


async def connect(edge: Edge, *ports: int) -> None:
    await edge.set_replicas("m-a", [("127.0.0.1", port) for port in ports])


@pytest.mark.parametrize("last", [b"", REFUSAL], ids=["silent", "503"])
async def test_what_was_not_answered_is_asked_elsewhere_once(
    client: httpx.AsyncClient, edge: Edge, sound: Backend, last: bytes
) -> None:
    async with dying(last) as first:
        await connect(edge, first.port, sound.port)
        answers = [await client.post(CHAT, json=BODY) for _ in range(4)]
    assert [answer.json().get("from") for answer in answers] == ["sound"] * 4
    assert (first.asked, len(sound.seen)) == (1, 4)


@pytest.mark.parametrize("last", [b"", REFUSAL], ids=["silent", "503"])
async def test_it_is_asked_elsewhere_once_and_no_more(client: httpx.AsyncClient, edge: Edge, last: bytes) -> None:
    """What ends two engines would end every one."""
    async with dying(last) as first, dying(last) as second, dying(last) as third:
        replicas = first, second, third
        await connect(edge, *(each.port for each in replicas))
        refused = await client.post(CHAT, json=BODY)
    assert refused.status_code in (502, 503)
    assert sum(each.asked for each in replicas) == 2


@pytest.mark.parametrize("last", [BEGUN, ENDED_IN_THE_HEAD], ids=["a stream", "half a head"])
async def test_what_has_begun_is_not_asked_again(
    client: httpx.AsyncClient, edge: Edge, sound: Backend, last: bytes
) -> None:
    async with dying(last) as first:
        await connect(edge, first.port)
        answer = await client.post(CHAT, json=BODY)
        await connect(edge, first.port, sound.port)
    assert answer.text == "data: x\n\n" if last == BEGUN else answer.status_code == 502
    assert (first.asked, sound.seen) == (1, [])


async def test_a_body_beyond_the_buffer_is_not_asked_again(make_spec: MakeSpec, sound: Backend) -> None:
    """HAProxy keeps no more of it than the buffer holds: its client sees what happened."""
    spec = make_spec(bufsize=16384)
    edge = Edge(spec)
    await edge.start()
    try:
        async with dying(b"") as first, httpx.AsyncClient(base_url=f"http://127.0.0.1:{spec.port}") as client:
            await connect(edge, first.port)
            answer = await client.post(CHAT, json={**BODY, "messages": "x" * 60_000})
    finally:
        await edge.stop(drain_s=1)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "engine_failed"
