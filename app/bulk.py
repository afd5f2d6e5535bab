"""Many questions, a bounded number of them in flight. Knows no HTTP.

Every lane (a base model) has one gate for the whole process, so many bulk calls together load a model no more than
one does. A full queue is waited out; anything else that goes wrong is that item's line.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from deployments.chat import ChatModel, ChatReply, ChatRequest
from deployments.errors import DeadlineExceeded, EngineFailed, Overloaded

FindModel = Callable[[str], Awaitable[ChatModel]]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class BulkJob:
    """One valid item. Jobs of a lane share its bound."""

    index: int
    model: str
    lane: str
    request: ChatRequest


@dataclass(frozen=True)
class BulkLine:
    """What became of one item: a reply or an error."""

    index: int
    reply: ChatReply | None = None
    error: Exception | None = None


class Gates:
    """One semaphore per lane, shared by every bulk call that gets this object."""

    def __init__(self, max_in_flight: int) -> None:
        self.max_in_flight = max_in_flight
        self._gates: dict[str, asyncio.Semaphore] = {}

    def of(self, lane: str) -> asyncio.Semaphore:
        return self._gates.setdefault(lane, asyncio.Semaphore(self.max_in_flight))


@dataclass(frozen=True)
class Runner:
    """How a job gets its answer. `find` raises ServingError if the model cannot answer now."""

    find: FindModel
    gates: Gates
    deadline_s: float
    sleep: Sleep = asyncio.sleep
    jitter: Callable[[], float] = field(default=random.random)

    async def line(self, job: BulkJob, until: float) -> BulkLine:
        """The job's line; never raises, except when the calling task is cancelled."""
        try:
            return BulkLine(job.index, reply=await self._reply(job, until))
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            return BulkLine(job.index, error=EngineFailed("The model broke off the request."))
        except Exception as error:
            return BulkLine(job.index, error=error)

    async def _reply(self, job: BulkJob, until: float) -> ChatReply:
        try:
            async with asyncio.timeout_at(until) as deadline, self.gates.of(job.lane):
                return await self._in_turn(job)
        except TimeoutError:
            if deadline.expired():
                raise DeadlineExceeded(f"No answer within the bulk deadline of {self.deadline_s:g} s.") from None
            raise

    async def _in_turn(self, job: BulkJob) -> ChatReply:
        for attempt in itertools.count():
            try:
                return await (await self.find(job.model)).chat(job.request)
            except Overloaded as busy:
                await self.sleep(backoff_s(attempt, busy.retry_after_s, self.jitter()))
        raise AssertionError("unreachable")


def backoff_s(attempt: int, retry_after_s: float, jitter: float) -> float:
    """Seconds to wait: what the model asked for, or doubling from 0.5 to 30 if that is longer, and up to half more."""
    return max(retry_after_s, min(0.5 * 2.0 ** min(attempt, 16), 30)) * (1 + jitter / 2)


async def run_bulk(jobs: Sequence[BulkJob], runner: Runner) -> AsyncGenerator[BulkLine, None]:
    """A line for every job, as they finish. Closing the iterator cancels all that is in flight."""
    until = asyncio.get_running_loop().time() + runner.deadline_s
    done: asyncio.Queue[BulkLine] = asyncio.Queue(maxsize=2 * runner.gates.max_in_flight)
    workers = [
        asyncio.create_task(_work(pending, runner, until, done))
        for pending in _lanes(jobs)
        for _ in range(min(runner.gates.max_in_flight, len(pending)))
    ]
    try:
        for _ in jobs:
            yield await done.get()
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def in_order(lines: AsyncIterator[BulkLine]) -> AsyncIterator[BulkLine]:
    """The same lines, by index from 0 on, each as soon as all before it are there."""
    early: dict[int, BulkLine] = {}
    following = 0
    async for line in lines:
        early[line.index] = line
        while following in early:
            yield early.pop(following)
            following += 1


async def _work(pending: deque[BulkJob], runner: Runner, until: float, done: asyncio.Queue[BulkLine]) -> None:
    while pending:
        await done.put(await runner.line(pending.popleft(), until))


def _lanes(jobs: Sequence[BulkJob]) -> Iterator[deque[BulkJob]]:
    lanes: defaultdict[str, deque[BulkJob]] = defaultdict(deque)
    for job in jobs:
        lanes[job.lane].append(job)
    yield from lanes.values()
