"""Raw connections to the edge: bytes that no HTTP client would send, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.edge import EdgeSpec

PATIENCE_S = 20


@dataclass(frozen=True)
class Raw:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """All that comes until the edge hangs up."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
        return b""

    async def head(self) -> bytes:
        """One answer's head."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readuntil(b"\r\n\r\n")


@asynccontextmanager
async def connected(spec: EdgeSpec, source: str = "127.0.0.1") -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection(spec.host, spec.port, local_addr=(source, 0), limit=1 << 20)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def exchanged(spec: EdgeSpec, data: bytes, close: bool = False) -> bytes:
    """All answers to these bytes. The edge hangs up after them; `close`: only once the client's side is closed."""
    async with connected(spec) as raw:
        with contextlib.suppress(ConnectionError):
            await raw.send(data)
            if close:
                raw.writer.write_eof()
        return await raw.rest()


def statuses(answers: bytes) -> list[int]:
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]
