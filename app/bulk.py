"""Many questions, a bounded number of them in flight. Knows no HTTP.

Every lane (a base model) has one gate for the whole process, so many bulk calls together load a model no more than
one does, and a key with one call does not wait for all of another key's. A model that takes many requests in one call
gets them in batches. A full queue is waited out; anything else that goes wrong is that item's line.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

from app.bulk_gates import Gates
from deployments.chat import BatchModel, ChatModel, ChatReply, ChatRequest
from deployments.errors import DeadlineExceeded, EngineFailed, Overloaded

FindModel = Callable[[str], Awaitable[ChatModel]]
Sleep = Callable[[float], Awaitable[None]]
Result = TypeVar("Result")


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


Put = Callable[[BulkLine], Awaitable[None]]


@dataclass(frozen=True)
class Runner:
    """How a job gets its answer. `find` raises ServingError if the model cannot answer now."""

    find: FindModel
    gates: Gates
    deadline_s: float
    sleep: Sleep = asyncio.sleep
    jitter: Callable[[], float] = field(default=random.random)

    async def model(self, name: str) -> ChatModel | Exception:
        """The model, or why it cannot answer."""
        try:
            return await self.find(name)
        except Exception as error:
            return error

    async def take(self, pending: deque[BulkJob]) -> tuple[ChatModel | Exception, list[BulkJob]]:
        """Their model, or why it cannot answer, and those that go to it in one call: maybe none are left."""
        first = pending[0]
        model = await self.model(first.model)
        most = self.gates.batch(first.lane) if isinstance(model, BatchModel) else 1
        return model, [pending.popleft() for _ in range(min(most, len(pending)))]

    async def answer(self, model: ChatModel, jobs: Sequence[BulkJob], until: float, put: Put) -> None:
        """Put a line for each of the jobs, which are of one lane; raises only if the calling task is cancelled."""
        gate, left = self.gates.of(jobs[0].lane), {job.index: job for job in jobs}
        places = 0
        try:
            await self._in_time(gate.take(len(jobs)), until)
            places = len(jobs)
            async with aclosing(self._replies(model, left)) as replies:
                while left:
                    for line in await self._in_time(anext(replies), until):
                        del left[line.index]
                        gate.give_back(1)
                        places -= 1
                        await put(line)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()) and task.cancelling():
                raise
            for line in [BulkLine(index, error=_told(error)) for index in left]:
                await put(line)
        finally:
            gate.give_back(places)

    async def _in_time(self, work: Awaitable[Result], until: float) -> Result:
        try:
            async with asyncio.timeout_at(until) as deadline:
                return await work
        except TimeoutError:
            if deadline.expired():
                raise DeadlineExceeded(f"No answer within the bulk deadline of {self.deadline_s:g} s.") from None
            raise

    async def _replies(self, model: ChatModel, left: Mapping[int, BulkJob]) -> AsyncGenerator[list[BulkLine], None]:
        """Lines as they come; a full queue is waited out."""
        for attempt in itertools.count():
            asked = list(left.values())
            try:
                if isinstance(model, BatchModel):
                    async with aclosing(model.chat_many([job.request for job in asked])) as answers:
                        async for some in answers:
                            yield [_line(asked[index].index, answer) for index, answer in some]
                    raise EngineFailed("The model ended the call before every item was answered.")
                yield [BulkLine(asked[0].index, reply=await model.chat(asked[0].request))]
            except Overloaded as busy:
                await self.sleep(backoff_s(attempt, busy.retry_after_s, self.jitter()))


def _line(index: int, answer: ChatReply | Exception) -> BulkLine:
    return BulkLine(index, error=answer) if isinstance(answer, Exception) else BulkLine(index, reply=answer)


def _told(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else EngineFailed("The model broke off the request.")


def backoff_s(attempt: int, retry_after_s: float, jitter: float) -> float:
    """Seconds to wait: what the model asked for, or doubling from 0.5 to 30 if that is longer, and up to half more."""
    return max(retry_after_s, min(0.5 * 2.0 ** min(attempt, 16), 30)) * (1 + jitter / 2)


async def run_bulk(jobs: Sequence[BulkJob], runner: Runner) -> AsyncGenerator[BulkLine, None]:
    """A line for every job, as they finish. Closing the iterator cancels all that is in flight."""
    until = asyncio.get_running_loop().time() + runner.deadline_s
    queues = list(_queues(jobs))
    done: asyncio.Queue[BulkLine] = asyncio.Queue(maxsize=2 * sum(runner.gates.places(each[0].lane) for each in queues))
    workers = [
        asyncio.create_task(_work(number, pending, runner, until, done.put))
        for pending in queues
        for number in range(min(runner.gates.places(pending[0].lane), len(pending)))
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


async def _work(number: int, pending: deque[BulkJob], runner: Runner, until: float, put: Put) -> None:
    if not pending:
        return
    first = pending[0]
    # In batches a few fill the lane; more would only stand before other bulk calls.
    spare = number * runner.gates.batch(first.lane) >= runner.gates.places(first.lane)
    if spare and isinstance(await runner.model(first.model), BatchModel):
        return
    while pending:
        model, jobs = await runner.take(pending)
        if isinstance(model, Exception):
            for job in jobs:
                await put(BulkLine(job.index, error=model))
        elif jobs:  # somebody else may have taken the last ones
            await runner.answer(model, jobs, until, put)


def _queues(jobs: Sequence[BulkJob]) -> Iterator[deque[BulkJob]]:
    """The jobs of each model. Models of one lane share its gate, and are asked side by side."""
    queues: defaultdict[tuple[str, str], deque[BulkJob]] = defaultdict(deque)
    for job in jobs:
        queues[job.lane, job.model].append(job)
    yield from queues.values()
