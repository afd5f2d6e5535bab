"""Waiting for something to happen: for a process with patience, in an event loop within moments."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

POLL_S = 0.2
PATIENCE_S = 180
"""How long anything may take before a test gives up; two busy cores are slow."""

T = TypeVar("T")


def until(look: Callable[[], T], patience_s: float = PATIENCE_S, what: str = "") -> T:
    """Look again and again until something true is seen, and return it."""
    deadline = time.monotonic() + patience_s
    while not (seen := look()):
        assert time.monotonic() < deadline, (
            f"{what or 'it'} did not happen within {patience_s:g} s; last seen: {seen!r}"
        )
        time.sleep(POLL_S)
    return seen


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it holds. Raises TimeoutError after 2 s."""
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.001)
