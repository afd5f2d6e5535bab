"""A call over a handle whose replica is lost: where no answer has come, another replica is asked, once.

A replica is lost when its process ends, which it does by itself when its engine dies (last_words.py), or when its node
cannot be reached. Whatever a replica says itself is final. One that was only out of reach is told to stop, and what it
has done by then unheard counts as used, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.errors import EngineFailed
from deployments.generation import GenerationEnded

log = logging.getLogger("corral.models")
T = TypeVar("T")
Ask = Callable[[], AsyncGenerator[T, None]]
LOST = (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError, ConnectionError)
PAUSE_S = 0.1
"""Serve's router hears of a replica's end a moment after who asked it."""
PATIENCE_S = 3.0
"""For another replica, where Serve's router knows of none: one that starts takes longer."""
PROBE_S = 1.0


def is_lost(error: Exception) -> bool:
    """Whether the replica is, and did not say this itself."""
    return isinstance(error, LOST) and not isinstance(error, RayTaskError)


async def in_two_tries(
    ask: Ask[T], another: Callable[[], Awaitable[bool]], name: str, resumes: bool = False
) -> AsyncGenerator[T, None]:
    """What `ask` yields. Raises what it raises; EngineFailed where nobody else can be asked, or is lost as well.

    another: waits for a further replica, and tells whether there is one. name: who is asked, as people know it.
    resumes: `ask`, called again, asks for what has not come yet; else it is not called again once something has.
    """
    begun = False
    try:
        async with aclosing(ask()) as pieces:
            async for piece in pieces:
                begun = True
                yield piece
        return
    except Exception as error:
        if not is_lost(error) or (begun and not resumes):
            raise
        log.warning("a replica of %s was lost before it answered", name)
        if not isinstance(error, GenerationEnded) and not await another():
            raise _failed(name, "no other replica of it answers") from error
    try:
        async with aclosing(ask()) as pieces:
            async for piece in pieces:
                yield piece
    except Exception as error:
        if is_lost(error):
            raise _failed(name, "so did the replica that was asked next") from error
        raise


def _failed(name: str, what: str) -> EngineFailed:
    return EngineFailed(f"{name} broke off while answering, and {what}; the request can be sent again.")


async def any_replica(resolved: Callable[[], Any]) -> bool:
    """Wait until a replica answers, or is too slow to; whether one did. resolved: the handle, maybe another by then."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE_S
    while True:
        await asyncio.sleep(PAUSE_S)
        if await _answers(resolved()):
            return True
        if loop.time() >= until:
            return False


async def _answers(handle: Any) -> bool:
    """Whether any does; one that is slow is there."""
    try:
        told = await handle.broadcast("under_way").results_async(timeout_s=PROBE_S, return_exceptions=True)
    except DeploymentUnavailableError:
        return False
    except TimeoutError:
        return True
    return any(not isinstance(each, BaseException) for each in told)
