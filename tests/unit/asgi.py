"""Driving an ASGI app by hand: pieces as they are sent, and a client that leaves. httpx.ASGITransport has neither."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp, Message

from app.relay import Upstream
from app.services import Limits, Services
from app.web import create_app
from deployments.chat import ChatModel
from deployments.status import Herd
from tests.unit.fakes import FakeHerd, FakeModel


class Call:
    """One request to an ASGI app, with its body in as many chunks as given."""

    def __init__(
        self,
        app: ASGIApp,
        path: str,
        chunks: Sequence[bytes],
        headers: Mapping[str, str],
        *,
        complete: bool = True,
        method: str = "POST",
    ) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "scheme": "http",
            "server": ("test", 80),
            "client": ("127.0.0.1", 1),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
        self.unread = list(chunks)
        self._complete = complete
        self._gone = asyncio.Event()
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.task = asyncio.ensure_future(_run(app(scope, self._receive, self._send)))

    async def _receive(self) -> Message:
        if self.unread:
            body = self.unread.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self.unread) or not self._complete}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.put_nowait(message)

    def leave(self) -> None:
        """The client closes its connection."""
        self._gone.set()

    async def start(self) -> Message:
        message = await asyncio.wait_for(self.sent.get(), 2)
        assert message["type"] == "http.response.start"
        return message

    async def piece(self) -> bytes:
        """The next piece of the body; b"" at its end."""
        message = await asyncio.wait_for(self.sent.get(), 2)
        assert message["type"] == "http.response.body"
        return bytes(message["body"])


async def _run(call: Awaitable[None]) -> None:
    await call


def post(app: ASGIApp, path: str, body: object, **headers: str) -> Call:
    """A JSON request as a Call."""
    given = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Call(app, path, [json.dumps(body).encode()], given)


def get(app: ASGIApp, path: str) -> Call:
    """A request without a body as a Call."""
    return Call(app, path, [b""], {}, method="GET")


def gateway(
    *models: FakeModel,
    herd: Herd | None = None,
    upstream: httpx.AsyncBaseTransport | None = None,
    limits: Limits | None = None,
    base_of: Mapping[str, str] | None = None,
    **more: Any,
) -> FastAPI:
    """The gateway over fakes; without an upstream every forwarded request fails to connect."""
    chatting: dict[str, ChatModel] = {model.model_id: model for model in models}
    ids = base_of or {model: model for model in chatting}
    transport = upstream or httpx.MockTransport(_refuse)
    services = Services(
        models=chatting,
        base_of=ids,
        herd=herd or FakeHerd.ready(*dict.fromkeys(ids.values())),
        upstream=Upstream(httpx.AsyncClient(transport=transport, base_url="http://serve")),
        limits=limits or Limits(),
        created=1_700_000_000,
        **more,
    )
    return create_app(services)


def _refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        yield client


def problem(response: httpx.Response) -> dict[str, Any]:
    """The error of a response, which must have OpenAI's shape and nothing else."""
    body = response.json()
    assert set(body) == {"error"}, body
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert error["message"]
    assert isinstance(error["code"], str)
    return error
