"""How many bulk items a replica has in its engine: as many as keep it full while nobody else asks, few beside people.

vLLM's priorities decide who is scheduled first, not how long a step takes: beside 64 bulk sequences everybody's next
token takes as long as all 64 (python -m loadtests.bulk has the figures). Nor do they make room: who comes to an engine
that has no sequence left waits for one to end, so the youngest item is given up for them and begins anew later.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from deployments.fair_order import FairOrder
from deployments.principal import ANYBODY, Principal

Result = TypeVar("Result")
Task = asyncio.Task[Any]

LINGER_S = 2.0
"""After an interactive request the next one is expected for so long."""
A_LITTLE_S = 0.01
"""A timer may be early."""
BESIDE_PEOPLE = 8
"""One bulk item for so many sequences of the engine runs beside interactive requests."""
ALONE = 1.5
"""Items for each sequence while nobody else asks: the next ones have to be there in time. A full engine gains nothing
from more, and would wait for its first step until all that have come are rendered.
"""


@dataclass(eq=False)
class _Place:
    """An item that waits. principal: None if it had its turn before."""

    principal: Principal | None
    turn: asyncio.Future[None]


class Courtesy:
    """One for each replica, of one event loop. sequences: that the engine runs at once."""

    def __init__(self, sequences: int, linger_s: float = LINGER_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._sequences, self._linger_s, self._clock = sequences, linger_s, clock
        self._few, self._most = max(1, sequences // BESIDE_PEOPLE), max(1, int(ALONE * sequences))
        self._people = 0
        self._left = -linger_s
        self._running: dict[Task, None] = {}
        """From the oldest on."""
        self._given_up: set[Task] = set()
        self._new: FairOrder[_Place] = FairOrder(self._most)
        self._again: deque[_Place] = deque()
        """Of items that were given up; they are next."""
        self._called = 0
        """Items that have their turn and do not run yet."""

    @property
    def people(self) -> int:
        """Interactive requests that are answered now."""
        return self._people

    @property
    def items(self) -> int:
        """Bulk items in the engine."""
        return len(self._running) + self._called

    @property
    def waiting(self) -> int:
        """Bulk items that are not in the engine yet."""
        return self._new.waiting + len(self._again)

    @contextmanager
    def person(self) -> Iterator[None]:
        """While an interactive request is answered."""
        self._people += 1
        self._make_room()
        try:
            yield
        finally:
            self._people -= 1
            self._left = self._clock()
            self._wake_later()

    async def item(self, answer: Callable[[], Coroutine[Any, Any, Result]], principal: Principal = ANYBODY) -> Result:
        """What `answer` returns or raises. It waits for its turn, in fair order among keys, and may be called again."""
        await self._turn(principal)
        while True:
            self._called -= 1
            task = asyncio.ensure_future(answer())
            self._running[task] = None
            try:
                return await self._kept(task)
            except _GivenUp:
                pass
            finally:
                self._running.pop(task, None)
                self._wake()
            await self._turn()

    async def _kept(self, task: asyncio.Task[Result]) -> Result:
        """Its result. Raises _GivenUp, however the task took its end, if that was not its own."""
        try:
            result = await task
        except BaseException:
            if task in self._given_up and not _is_cancelled():
                raise _GivenUp from None
            raise
        else:
            if task in self._given_up:
                raise _GivenUp
            return result
        finally:
            self._given_up.discard(task)

    def _make_room(self) -> None:
        """Give up the youngest of those that hold a sequence if the last one who came would find none."""
        left = self._sequences - self._people
        held = list(self._running)[: max(0, left + 1)]
        if left < len(held) > self._few and held[-1].cancel():
            del self._running[held[-1]]
            self._given_up.add(held[-1])

    async def _turn(self, principal: Principal | None = None) -> None:
        """Wait until there is room; it is taken then. principal: None for an item that had its turn before."""
        if self._room() and (principal is None or not self.waiting):
            self._called += 1
            return
        place = _Place(principal, asyncio.get_running_loop().create_future())
        if principal is None:
            self._again.appendleft(place)
        else:
            self._new.push(principal, place, 1)
        self._wake_later()
        try:
            await place.turn
        except asyncio.CancelledError:
            if place.turn.cancelled():
                self._forget(place)
            else:  # it had its turn already
                self._called -= 1
                self._wake()
            raise

    def _forget(self, place: _Place) -> None:
        if place.principal is not None:
            self._new.remove(place.principal, place)
        elif place in self._again:
            self._again.remove(place)

    def _room(self) -> bool:
        alone = not self._people and self._rest_s() <= 0
        return self.items < (self._most if alone else self._few)

    def _rest_s(self) -> float:
        """Until nobody is expected any more."""
        return self._linger_s - (self._clock() - self._left)

    def _wake_later(self) -> None:
        rest = self._rest_s()
        if self.waiting and not self._people and rest > 0:
            asyncio.get_running_loop().call_later(rest + A_LITTLE_S, self._wake)

    def _wake(self) -> None:
        while self._room() and (place := self._next()):
            if not place.turn.done():
                self._called += 1
                place.turn.set_result(None)

    def _next(self) -> _Place | None:
        """Of those that wait; it waits no longer."""
        if self._again:
            return self._again.popleft()
        place = self._new.next()
        if place and place.principal is not None:
            self._new.start(place.principal, place)
            self._new.finish(place.principal)  # who is in the engine is counted here
        return place


class _GivenUp(Exception):
    """An item made room for somebody."""


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
