"""How many bulk items a replica has in its engine: as many as keep it full while nobody else asks, few beside people.

vLLM's priorities decide who is scheduled first, not how long a step takes: beside 64 bulk sequences everybody's next
token takes as long as all 64 (python -m loadtests.bulk has the figures).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

LINGER_S = 2.0
"""After an interactive request the next one is expected for so long."""


class Courtesy:
    """One for each replica, of one event loop. few: items beside people, most: items alone, both at least one.

    A full engine gains nothing from more, and would wait for its first step until all that have come are rendered.
    """

    def __init__(
        self, few: int, most: int, linger_s: float = LINGER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._few, self._most = max(1, few), max(1, most)
        self._linger_s, self._clock = linger_s, clock
        self._people = 0
        self._left = -linger_s
        self._items = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def items(self) -> int:
        """Bulk items in the engine."""
        return self._items

    @contextmanager
    def person(self) -> Iterator[None]:
        """While an interactive request is answered."""
        self._people += 1
        try:
            yield
        finally:
            self._people -= 1
            self._left = self._clock()
            if self._waiting and not self._people:
                asyncio.get_running_loop().call_later(self._linger_s, self._wake)

    @asynccontextmanager
    async def item(self) -> AsyncIterator[None]:
        """While a bulk item is answered; waits for its turn, first come first served."""
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def _enter(self) -> None:
        if not self._waiting and self._room():
            self._items += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(turn)
            else:  # it had its turn already
                self._leave()
            raise

    def _leave(self) -> None:
        self._items -= 1
        self._wake()

    def _room(self) -> bool:
        alone = not self._people and self._clock() - self._left >= self._linger_s
        return self._items < (self._most if alone else self._few)

    def _wake(self) -> None:
        while self._waiting and self._room():
            turn = self._waiting.popleft()
            if not turn.done():
                self._items += 1
                turn.set_result(None)
