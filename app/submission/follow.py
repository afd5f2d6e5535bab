"""Following a job from the queue until its models answer, also while SLURM's controller is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from app.allocation.records import ServiceFolder, ServiceJob
from app.launch import LaunchError, NotRunningError
from app.submission.look import Look, Queued, ask, see
from app.submission.submit import Sleep
from slurm.client import SlurmClient
from slurm.errors import Unavailable

POLL_S = 0.5
ASK_S = 3.0
"""squeue is asked so often; the files, which nobody else is slowed by, more often."""
PLACE_S = 60.0
"""The place in the queue so often: squeue then prints every job there is."""
LAST_WORDS_S = 2.0
"""A network file system shows the end of a log only after a while."""
SILENCE_S = 900
"""So long a controller may be away while the job says nothing either."""


async def look(folder: ServiceFolder, client: SlurmClient) -> Look:
    """What a service is doing now; what it says itself also if SLURM does not answer. Raises NotRunningError."""
    at, job_id = latest(folder)
    return see(at, job_id, await ask(client, job_id))


def latest(folder: ServiceFolder) -> tuple[ServiceJob, int]:
    """The job to look at, and its id. Raises NotRunningError if there never was one."""
    at = folder.latest()
    record = at.record() if at else None
    if at is None or record is None:
        raise NotRunningError(f"{folder.path.name!r} has no job; `corral slurm up` submits one")
    return at, record.job_id


async def follow(
    at: ServiceJob,
    job_id: int,
    client: SlurmClient,
    timeout_s: float | None = None,
    sleep: Sleep = asyncio.sleep,
    clock: Callable[[], float] = time.time,
    local: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Look]:
    """Look again and again until every model is ready, idle or failed. Raises LaunchError if that cannot be any more.

    Raises Unavailable only if neither SLURM nor the job say anything for long. local: of a clock that nobody moves.
    """
    watch, began = Watch(client, job_id, local), local()
    try:
        while True:
            seen = see(at, job_id, watch.seen())
            if watch.asked:
                yield seen
            if seen.ready:
                return
            if watch.asked and seen.problem(clock()):
                await sleep(LAST_WORDS_S)
                raise LaunchError(see(at, job_id, watch.seen()).problem(clock()) or seen.problem(clock()))
            silent_s = 0.0 if watch.silent_since is None or seen.fresh(clock()) else local() - watch.silent_since
            _check_patience(seen, local() - began, timeout_s, silent_s)
            await sleep(POLL_S)
    finally:
        await watch.close()


def _check_patience(seen: Look, waited_s: float, timeout_s: float | None, silent_s: float) -> None:
    if timeout_s is not None and waited_s > timeout_s:
        raise LaunchError(
            f"not ready after {timeout_s:g} s; job {seen.job_id} goes on: `corral slurm status` shows it, "
            f"`corral slurm down` ends it"
        )
    if silent_s > SILENCE_S:
        raise Unavailable(f"SLURM's controller does not answer for {SILENCE_S} s, and job {seen.job_id} says nothing")


class Watch:
    """Asks SLURM beside whoever follows: a controller that hangs does not hold up what the shared folder says."""

    def __init__(self, client: SlurmClient, job_id: int, clock: Callable[[], float]) -> None:
        self._client, self._job_id, self._clock = client, job_id, clock
        self._task: asyncio.Task[Queued] | None = None
        self._last = Queued()
        self._next_question = self._next_place = float("-inf")
        self.asked = False
        self.silent_since: float | None = None

    def seen(self) -> Queued:
        """The last that is known; begins the next question if it is time. Raises what the last question raised."""
        if self._task and self._task.done():
            self._take(self._task.result())
            self._task = None
        now = self._clock()
        if self._task is None and now >= self._next_question:
            place = now >= self._next_place
            self._next_place = now + PLACE_S if place else self._next_place
            self._task = asyncio.create_task(ask(self._client, self._job_id, place))
        return self._last

    def _take(self, told: Queued) -> None:
        self._next_question = self._clock() + ASK_S
        self.asked = True
        if not told.answers:
            self.silent_since = self._clock() if self.silent_since is None else self.silent_since
            self._last = replace(self._last, answers=False)
            return
        self.silent_since = None
        waiting = told.job is not None and told.job.state.waiting
        before = told.before if told.before is not None or not waiting else self._last.before
        self._last = replace(told, before=before)

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
