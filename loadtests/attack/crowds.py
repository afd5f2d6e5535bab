"""Connections that do nothing, or everything slowly, while others want to be served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

BEGUN = (b"", b"GET / HTTP/1.1\r\nx: y", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
"""What an idle connection has sent: nothing, half a request, or a whole one, after which it stays."""
AT_ONCE = 200


class Crowd:
    """Open connections."""

    def __init__(self) -> None:
        self.pairs: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.refused = 0

    async def join(self, host: str, port: int, sent: bytes) -> None:
        try:
            reader, writer = await asyncio.open_connection(host, port, limit=4096)
            writer.write(sent)
            self.pairs.append((reader, writer))
        except OSError:
            self.refused += 1

    async def left(self, patience_s: float) -> tuple[int, float]:
        """How many are still open once that time has passed, or all are gone; and the seconds that it took."""
        began = time.perf_counter()
        gone = asyncio.gather(*(_ended(reader) for reader, _ in self.pairs), return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gone, patience_s)
        return sum(not reader.at_eof() for reader, _ in self.pairs), time.perf_counter() - began


async def _ended(reader: asyncio.StreamReader) -> None:
    while await reader.read(4096):
        pass


@asynccontextmanager
async def crowd(host: str, port: int, count: int, begun: Sequence[bytes] = BEGUN) -> AsyncIterator[Crowd]:
    """So many connections, each having sent one of `begun`."""
    there = Crowd()
    try:
        for first in range(0, count, AT_ONCE):
            some = range(first, min(count, first + AT_ONCE))
            await asyncio.gather(*(there.join(host, port, begun[number % len(begun)]) for number in some))
        yield there
    finally:
        for _, writer in there.pairs:
            writer.transport.abort()


@asynccontextmanager
async def slow_clients(host: str, port: int, count: int, model: str, key: str) -> AsyncIterator[Crowd]:
    """A third sends its head slowly, a third its body, a third does not read the stream that it asked for."""
    body = json.dumps(
        {"model": model, "stream": True, "max_tokens": 64, "messages": [{"role": "user", "content": "x"}]}
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    begun = (head[:40].encode(), (head + body[:20]).encode(), (head + body).encode())
    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(crowd(host, port, count, begun))
        dripping = asyncio.create_task(_drip(there, {0: b"x", 1: b" "}))
        stack.callback(dripping.cancel)
        yield there


async def _drip(there: Crowd, bytes_of: dict[int, bytes]) -> None:
    while True:
        await asyncio.sleep(0.5)
        for number, (_, writer) in enumerate(there.pairs):
            if (piece := bytes_of.get(number % 3)) and not writer.is_closing():
                writer.write(piece)
