"""Responses that pass on pieces as they come, and let go of their source when the client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import Problem, problem_of
from deployments.errors import EngineFailed

log = logging.getLogger("corral.gateway")
T = TypeVar("T")
SSE = "text/event-stream"
UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}
DONE = b"data: [DONE]\n\n"
ALIVE = b": alive\n\n"
"""A comment, which readers of server-sent events skip."""


class Streamed(Response):
    """Sends each chunk at once. The status waits for the first one: what fails before it is an ordinary error."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], media_type: str) -> None:
        super().__init__(headers=UNBUFFERED, media_type=media_type)
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks) as chunks:
            first = await anext(chunks, b"")
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@contextlib.asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Closes the iterator at the end of the block, if it is of a kind that can be closed."""
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


async def with_silences(items: AsyncIterator[T], silence_s: float) -> AsyncGenerator[T | None, None]:
    """The same items, and None whenever there was none for so long.

    A task of its own reads them from first to last and closes them, so that no pause ever cancels their source.
    """
    ahead: asyncio.Queue[T | Exception | None] = asyncio.Queue(1)
    reader = asyncio.create_task(_read(items, ahead))
    try:
        while True:
            silent, item = await _next(ahead, silence_s)
            if isinstance(item, Exception):
                raise item
            if item is None and not silent:
                return
            yield item
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def _next(ahead: asyncio.Queue[T], silence_s: float) -> tuple[bool, T | None]:
    """Whether there was silence, and the item if not."""
    try:
        async with asyncio.timeout(silence_s):
            return False, await ahead.get()
    except TimeoutError:
        return True, None


async def _read(items: AsyncIterator[T], ahead: asyncio.Queue[T | Exception | None]) -> None:
    """Puts every item, and then None or the failure."""
    try:
        async with closing(items) as source:
            async for item in source:
                await ahead.put(item)
        await ahead.put(None)
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        await ahead.put(EngineFailed("It broke off."))
    except Exception as error:
        await ahead.put(error)


async def with_last_word(
    pieces: AsyncGenerator[bytes, None], source: str, word: Callable[[Problem], bytes]
) -> AsyncGenerator[bytes, None]:
    """The same pieces. What fails before the first is raised; later `word` makes the last piece of it."""
    started = False
    async with aclosing(pieces):
        try:
            async for piece in pieces:
                started = True
                yield piece
        except Exception as error:
            if not started:
                raise
            problem = problem_of(error)
            log.warning("a stream of %s broke off: %r", source, error, exc_info=problem.status == 500)
            yield word(problem)


def problem_event(problem: Problem) -> bytes:
    return event(problem.body())


def event(data: BaseModel | Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + line(data) + b"\n"


def line(data: BaseModel | Mapping[str, Any]) -> bytes:
    """One line of JSON; fields of a model that were never set are left out."""
    text = data.model_dump_json(exclude_unset=True) if isinstance(data, BaseModel) else json.dumps(data)
    return text.encode() + b"\n"
