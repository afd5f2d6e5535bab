"""A service that answers, refuses or breaks off as it is told, and notes the keys that it was asked with."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtests.keys.client import Answer, Request

EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
FULL = json.dumps({"error": {"message": "full", "code": "queue_full"}}).encode()


@dataclass
class Told:
    """pieces: of the body of each answer."""

    pieces: tuple[bytes, ...] = (EVENT, DONE)
    status_of: Callable[[int], int] = lambda number: 200
    keys: list[str | None] = field(default_factory=list)
    peers: set[object] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        status = self.status_of(len(self.keys))
        self.peers.add(request.transport)
        self.keys.append(request.headers.get("authorization"))
        if status != 200:
            return web.Response(status=status, body=FULL)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in self.pieces:
            await response.write(piece)
        return response


@asynccontextmanager
async def service(told: Told) -> AsyncIterator[Request]:
    """What to ask it."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", told.handle)
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0)
    try:
        yield Request(str(server.make_url("")).rstrip("/"), "pocket-1b", 3, 1)
    finally:
        await server.close()


def answered(sent_s: float, ended_s: float, status: int = 200, *, late_s: float = 0.0, key: str = "a") -> Answer:
    """One with its first text halfway, if it is one."""
    good = status == 200
    first_s = (sent_s + ended_s) / 2 if good else 0.0
    return Answer(sent_s - late_s, sent_s, first_s, ended_s, status, good, "" if good else "queue_full", key)
