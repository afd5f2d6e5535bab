"""Ending a request whose client has left: Serve cancels it, and what answers it hears of the disconnect as well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE_S = 2
"""What the answering side may take to end by itself, before it is cancelled."""


async def ended_by_disconnect(answer: Awaitable[None], tell: Callable[[], None] | None = None) -> None:
    """Await `answer` in a task that Serve's cancellation does not reach; `tell` is called when it comes.

    A handler of vLLM's that is cancelled leaves its engine request running (`with_cancellation` waits for it with
    asyncio.wait), and an httpx request cancelled twice leaves its connection open: both end well by the disconnect.
    """
    task = asyncio.ensure_future(answer)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if tell:
            tell()
        try:
            await asyncio.wait({task}, timeout=PATIENCE_S)
        finally:
            task.cancel()
        raise
