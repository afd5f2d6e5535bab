"""What leaves a replica over its handle when a call fails: our own errors, and nothing once its engine is dead.

A replica whose engine died ends within seconds. To Serve's router it is idle until then, and would get again what it
has just lost. So a call that has no answer yet is held until that end: the router lets go of the replica by it, and
who asked knows that another one can be asked (second_try.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType

from deployments.engine_death import GRACE_S
from deployments.errors import EngineFailed, ServingError
from deployments.vllm_errors import as_ours

log = logging.getLogger("corral.replica")
HELD_S = 10 * GRACE_S
"""The process has ended long before."""


class LastWords:
    """Around one call. dead: tells whether the engine is. begun: some of the answer has gone out, set by the caller."""

    def __init__(self, dead: Callable[[], bool], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._dead, self._sleep = dead, sleep
        self.begun = False

    async def __aenter__(self) -> LastWords:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises ServingError in place of any other Exception."""
        if error is None or not (isinstance(error, Exception) or self._was_dropped(error)):
            return
        ours = as_ours(error)
        if self._dead() and isinstance(ours, EngineFailed):
            if not self.begun:
                await self._sleep(HELD_S)
        elif not isinstance(error, ServingError):
            log.warning("a call failed", exc_info=error)
        if ours is not error:
            raise ours from error

    def _was_dropped(self, error: BaseException) -> bool:
        """Whether a dying engine cancelled what was under way; nobody has asked for that."""
        task = asyncio.current_task()
        asked = task is not None and task.cancelling() > 0
        return isinstance(error, asyncio.CancelledError) and not asked and self._dead()
