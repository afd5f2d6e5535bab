"""Many awaitables of one call: what becomes of each, in lists as they finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any

Finished = tuple[int, Any]
"""Index and result; an Exception where there is none."""

GATHER_S = 0.1
"""What finishes within this time goes in one list: passing a list on costs both ends as much as a short answer does."""


async def finished(work: Iterable[Coroutine[Any, Any, Any]]) -> AsyncGenerator[list[Finished], None]:
    """Run all at once. Closing it cancels what is left, and waits until that has ended."""
    tasks = {asyncio.ensure_future(each): index for index, each in enumerate(work)}
    left = set(tasks)
    try:
        while left:
            await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            done, left = await asyncio.wait(left, timeout=GATHER_S)
            yield [(tasks[task], _result(task)) for task in sorted(done, key=lambda task: tasks[task])]
    finally:
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _result(task: asyncio.Future[Any]) -> Any:
    if task.cancelled():
        return asyncio.CancelledError()
    error = task.exception()
    return error if error is not None else task.result()
