"""Closed-loop users whose number changes: each asks again when it has its answer, for as long as it belongs here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from random import Random
from typing import Self

from loadtests.client.pace import Asker
from loadtests.records import Fault, Sample
from loadtests.sweep.figures import percentile

LEAST_GRACE_S, SLOW_ANSWERS = 5.0, 3.0
"""At the end an answer has three times as long as a slow one took, and five seconds at least."""
FAULT_PAUSE_S = 1.0
"""Who was refused asks again after this: a loop of refusals would be a load of its own."""


class Crowd:
    """Use it in `async with`; whoever still asks at its end is cut off. `bodies` have no end; `now` is the asker's.

    Users think from half of `think_s` to half as much again, by `seed`: all alike, they would ask in step for ever.
    """

    def __init__(
        self, asker: Asker, bodies: Iterator[bytes], now: Callable[[], float], think_s: float = 0.0, seed: int = 1
    ) -> None:
        self._asker, self._bodies, self._now, self._think_s = asker, bodies, now, think_s
        self._random = Random(seed)
        self._users: dict[int, asyncio.Task[None]] = {}
        self._asking: dict[int, float] = {}
        """When whoever is asking began to."""
        self.wanted = 0
        self.samples: list[Sample] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._cut_off()

    async def _cut_off(self) -> None:
        for task in self._users.values():
            task.cancel()
        await asyncio.gather(*self._users.values(), return_exceptions=True)

    @property
    def in_flight(self) -> int:
        return len(self._asking)

    def resize(self, users: int) -> None:
        """Those too many ask no more, but wait for the answer that is on its way; new ones ask at once."""
        self.wanted = users
        for number in range(users):
            user = self._users.get(number)
            if user is None or user.done():
                if user is not None:
                    user.result()  # an asker raises nothing, so this is a mistake of ours
                self._users[number] = asyncio.create_task(self._user(number))

    async def leave(self) -> int:
        """Nobody asks any more. Waits for what is under way; what has no end by then failed. Returns how much that is.

        A service that hangs would have no failure otherwise.
        """
        self.resize(0)
        grace_s = self._grace_s()
        if asking := [self._users[number] for number in self._asking]:
            await asyncio.wait(asking, timeout=grace_s)
        late = list(self._asking.values())
        await self._cut_off()
        detail, ended = f"no end of the answer within {grace_s:.1f} s after the load", self._now()
        self.samples += [Sample(began, began, ended, fault=Fault.TIMEOUT, detail=detail) for began in late]
        return len(late)

    def _grace_s(self) -> float:
        times = [each.e2e_s for each in self.samples if each.ok]
        return max(LEAST_GRACE_S, SLOW_ANSWERS * percentile(times, 95)) if times else LEAST_GRACE_S

    async def _user(self, number: int) -> None:
        while number < self.wanted:
            self._asking[number] = self._now()
            try:
                sample = await self._asker.ask(next(self._bodies))
            finally:
                del self._asking[number]
            self.samples.append(sample)
            if number < self.wanted and (pause_s := self._pause_s(sample)):
                await asyncio.sleep(pause_s)

    def _pause_s(self, sample: Sample) -> float:
        pause_s = self._think_s * self._random.uniform(0.5, 1.5)
        return pause_s if sample.ok else max(FAULT_PAUSE_S, pause_s)
