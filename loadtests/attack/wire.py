"""Sends bytes to an address, many at once, and tells what came back."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from loadtests.attack.malformed import Malformed

STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
CODE = re.compile(rb'"code": ?"(\w+)"')
"""In an error's body."""
SETTINGS = b"\x04\x00\x00\x00\x00\x00"
"""Of HTTP/2's first frame, after its length."""
HANG_S = 60.0
AT_ONCE = 16


@dataclass
class Outcome:
    """statuses: "HTTP/2" for its preface's answer, "closed" without any. hung: nothing came for HANG_S."""

    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    """Kind, what was sent and what came: 500s, and requests that had no answer."""
    failed: Counter[str] = field(default_factory=Counter)
    """Statuses from 500 on, with the error's code."""
    hung: int = 0

    def note(self, sent: Malformed, answer: bytes) -> None:
        status = told(answer)
        self.statuses[status] += 1
        if status.startswith("5"):
            code = CODE.search(answer)
            self.failed[f"{status} {code[1].decode() if code else 'without a code'}"] += 1
        if status == "500" or (status == "closed" and sent.heard):
            self.faults.append((sent.kind, sent.data[:2000], answer[:500]))


def told(answer: bytes) -> str:
    if found := STATUS.match(answer):
        return found[1].decode()
    return "HTTP/2" if answer[3:].startswith(SETTINGS) else "closed"


async def answered(host: str, port: int, sent: Malformed) -> bytes:
    """All that comes until the other side closes. Raises TimeoutError."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        async with asyncio.timeout(HANG_S):
            with contextlib.suppress(ConnectionError):
                writer.write(sent.data)
                await writer.drain()
                if not sent.heard:  # what has no end is waited for otherwise
                    writer.write_eof()
            return await _all(reader)
    finally:
        writer.close()


async def _all(reader: asyncio.StreamReader) -> bytes:
    """What came before a reset counts, too."""
    pieces = []
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


async def send_all(host: str, port: int, requests: Iterable[Malformed], outcome: Outcome) -> None:
    """Adds to `outcome`."""
    waiting = iter(requests)

    async def sender() -> None:
        for sent in waiting:
            try:
                outcome.note(sent, await answered(host, port, sent))
            except TimeoutError:
                outcome.hung += 1
                outcome.faults.append((sent.kind, sent.data[:2000], b"nothing came"))

    await asyncio.gather(*(sender() for _ in range(AT_ONCE)))
