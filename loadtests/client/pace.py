"""When requests are sent: by users who ask again at once (closed loop), or as they arrive (open loop)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from loadtests.client.exchange import Failure, failure
from loadtests.client.prompts import Prompt
from loadtests.records import Fault, Sample

GIVE_UP = 16
"""If the first so many requests all fail to connect, no more are sent."""
LEAST_GRACE_S = 5.0
LOST = (Fault.CONNECTION, Fault.TIMEOUT)
Body = TypeVar("Body")
Sent = TypeVar("Sent", contravariant=True)


class Asker(Protocol):
    """Whoever sends one request (ask.py, other_kinds.py)."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What it saw that is worth telling."""

    @property
    def silent(self) -> int:
        """Requests under way that have no text yet."""

    def body(self, prompt: Prompt) -> bytes:
        """What is sent for a prompt."""

    async def ask(self, body: bytes, due_s: float | None = None) -> Sample:
        """Raises nothing for what an endpoint does."""


class Sender(Protocol[Sent]):
    """Whoever sends a call of one or several requests, and can be cut off."""

    cut: Failure | None
    """Set before a call under way is cancelled: its requests then have this fault."""

    @property
    def silent(self) -> int:
        """Requests under way that have no text yet."""

    async def ask_all(self, body: Sent, due_s: float | None = None, /) -> list[Sample]:
        """Raises nothing for what an endpoint does."""


class Pace(Generic[Body]):
    """Sends requests for at most `max_seconds` and gathers their samples. `now`: seconds since the begin.

    What is under way then has a grace: as long as the longest answer so far, at least 5 s. The rest is cut off, which
    is a timeout.
    """

    def __init__(self, asker: Sender[Body], now: Callable[[], float], max_seconds: float) -> None:
        self._asker, self._now, self._max_seconds = asker, now, max_seconds
        self._reached = False
        self.samples: list[Sample] = []
        self.cut_silent = 0
        """Requests that were cut off before they had any text."""
        self.gave_up = False
        self.unsent = 0
        """Arrivals of an open loop that were never sent."""

    @property
    def cut(self) -> int:
        """Requests that were cut off."""
        return sum(1 for each in self.samples if (each.fault, each.detail) == self._asker.cut)

    async def closed(self, bodies: Iterable[Body], users: int) -> None:
        """So many users share the requests; each sends its next one as soon as it has an answer."""
        left = iter(bodies)
        async with asyncio.TaskGroup() as group:
            await self._wind_up([group.create_task(self._user(left)) for _ in range(users)])

    async def open(self, bodies: Iterable[Body], dues_s: Sequence[float]) -> None:
        """Each request at its time, whatever became of those before it; late rather than never."""
        async with asyncio.TaskGroup() as group:
            under_way: set[asyncio.Task[None]] = set()
            for number, (due_s, body) in enumerate(zip(dues_s, bodies, strict=False)):
                await asyncio.sleep(max(0.0, due_s - self._now()))
                if self._given_up() or self._now() >= self._max_seconds + LEAST_GRACE_S:
                    self.unsent = len(dues_s) - number
                    break
                task = group.create_task(self._one(body, due_s))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await self._wind_up(list(under_way))

    async def _user(self, left: Iterator[Body]) -> None:
        for body in left:
            await self._one(body, None)
            if self._given_up() or self._now() >= self._max_seconds:
                return

    async def _one(self, body: Body, due_s: float | None) -> None:
        samples = await self._asker.ask_all(body, due_s)
        self.samples += samples
        self._reached = self._reached or any(each.fault is not Fault.CONNECTION for each in samples)

    def _given_up(self) -> bool:
        self.gave_up = not self._reached and len(self.samples) >= GIVE_UP
        return self.gave_up

    async def _wind_up(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        rest = await run_out(tasks, self._now, self._max_seconds, self.samples)
        if rest:
            self.cut_silent = self._asker.silent
            self._asker.cut = failure(Fault.TIMEOUT, f"cut off {self._now():.1f} s after the begin of the measurement")
        for task in rest:
            task.cancel()


async def run_out(
    tasks: Sequence[asyncio.Task[None]], now: Callable[[], float], max_seconds: float, samples: Sequence[Sample]
) -> list[asyncio.Task[None]]:
    """Waits for the tasks until `max_seconds` and for the grace after it. Returns those that still run."""
    if running := [task for task in tasks if not task.done()]:
        await asyncio.wait(running, timeout=max(0.0, max_seconds - now()))
    if running := [task for task in running if not task.done()]:
        await asyncio.wait(running, timeout=grace_s(samples))
    return [task for task in running if not task.done()]


def grace_s(samples: Sequence[Sample]) -> float:
    """How long what is under way may go on."""
    return max((LEAST_GRACE_S, *(each.e2e_s for each in samples if each.ok)))


def unanswered(samples: Sequence[Sample]) -> bool:
    """Whether nothing at all came back: no connection or no end of any request, and no text."""
    return bool(samples) and all(each.fault in LOST and not each.times_s for each in samples)


def arrivals(rate: float, seconds: float, seed: Sequence[int], most: int) -> list[float]:
    """Poisson arrivals in seconds: the first at 0, all before `seconds`, at most so many."""
    between = np.random.default_rng(list(seed)).exponential(1 / rate, size=most)
    dues = np.concatenate(([0.0], np.cumsum(between)[:-1]))
    return [float(due) for due in dues if due < seconds]
