"""What stands behind the edge in these tests: a real HTTP server that tells what it saw and streams when told to."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


@dataclass
class Backend:
    """Answers every request with its own name; paths ending in /stream send one event for each `more`."""

    name: str
    port: int
    seen: list[Seen] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    healthy: bool = True
    hold: asyncio.Event | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    more: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def paths(self) -> list[str]:
        return [each.path for each in self.seen]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/-/healthz":
            return await _reply(send, 200 if self.healthy else 503, {})
        headers = [(key.decode(), value.decode("latin-1")) for key, value in scope["headers"]]
        body = await _body(receive)
        self.seen.append(Seen(scope["method"], scope["raw_path"].decode(), headers, body))
        self.arrived.set()
        if "stream" in scope["query_string"].decode():
            return await self._stream(receive, send)
        if self.hold and not await self._released(self.hold, receive):
            return None
        told = {"from": self.name, "path": scope["path"], "bytes": len(body)}
        return await _reply(send, self.status, told, self.headers)

    async def _released(self, hold: asyncio.Event, receive: Receive) -> bool:
        """Wait until it may answer; False if who asked hangs up before."""
        waiting, gone = asyncio.ensure_future(hold.wait()), asyncio.ensure_future(receive())
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            self.left.set()
        waiting.cancel()
        gone.cancel()
        return hold.is_set()

    async def _stream(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        gone = asyncio.ensure_future(receive())
        while True:
            item = asyncio.create_task(self.more.get())
            await asyncio.wait({item, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                item.cancel()
                self.left.set()
                return None
            if item.result() == "end":
                gone.cancel()
                return await send({"type": "http.response.body", "body": b""})
            await send({"type": "http.response.body", "body": f"data: {item.result()}\n\n".encode(), "more_body": True})


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def _reply(send: Send, status: int, value: Any, more: Mapping[str, str] = MappingProxyType({})) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), text.encode()) for name, text in more.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def running(name: str, port: int = 0) -> AsyncIterator[Backend]:
    """The backend on a free port of loopback, ended at exit with all its connections."""
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # with 0 asyncio leaves Nagle on: 40 ms for each chunk
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    backend = Backend(name, listener.getsockname()[1])
    config = uvicorn.Config(
        backend, log_level="critical", lifespan="off", ws="none", http="h11", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield backend
    finally:
        server.force_exit = True
        await server.shutdown([listener])
        task.cancel()
        await asyncio.wait([task])
