"""Endpoints for `corral bench` as typed: real small servers on a thread of their own, and one that goes away."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.unit.load_client_fakes import ROLE, Body, Endpoint, delta, event, usage, words

QUICK = "--concurrency 1,2 --repeats 1 --lengths 41:4 --warmup 0 --requests-per-user 1 --out found"
WRITTEN = {"run.json", "measurements.jsonl", "report.html", "report.md", "report.json", "figures.csv"}


@dataclass
class Watched(Endpoint):
    """An endpoint that remembers every key it was sent."""

    keys: set[str | None] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.keys.add(request.headers.get("Authorization"))
        return await super().handle(request)


@dataclass
class Mortal(Watched):
    """Answers so many streamed requests; then it is gone: nothing listens there any more."""

    last: int = 20
    site: web.TCPSite | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.site is not None and len(self.measured) >= self.last:
            await self.site.stop()
            self.site = None
        if self.site is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return await super().handle(request)


@contextmanager
def on_a_thread(endpoint: Endpoint) -> Iterator[str]:
    """Its address, for commands that run an event loop of their own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", endpoint.handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    try:
        port = asyncio.run_coroutine_threadsafe(_listen(runner, endpoint), loop).result()
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _listen(runner: web.AppRunner, endpoint: Endpoint) -> int:
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    if isinstance(endpoint, Mortal):
        endpoint.site = site
    port: int = runner.addresses[0][1]
    return port


def without_counts(body: Body) -> bytes:
    """A stream that never tells how many tokens it was."""
    return ROLE + b"".join(delta(content=" word") for _ in range(int(body["max_tokens"]))) + b"data: [DONE]\n\n"


def failing(body: Body) -> bytes:
    return event({"error": {"message": "the engine is out of breath"}}) + b"data: [DONE]\n\n"


def hasty(body: Body) -> bytes:
    """Half of what was asked."""
    tokens = int(body["max_tokens"]) // 2
    texts = b"".join(delta(content=" word") for _ in range(tokens))
    return ROLE + texts + usage(words(body), tokens) + b"data: [DONE]\n\n"


def measured(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "measurements.jsonl").read_text().splitlines()]


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found
