"""Requests that take turns and stay inside until they are told to end, and a clock that stands still."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import chain

from deployments.errors import DeadlineExceeded, Overloaded, Unavailable
from deployments.principal import Principal
from deployments.turns import Turn, Turns

FLOOD, QUIET, THIRD = Principal("flood"), Principal("quiet"), Principal("third")


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Request:
    """One that stays inside until it is told to end. ended: what became of it."""

    def __init__(
        self, turns: Turns, principal: Principal, cost: float = 10, deadline: float | None = None,
        streamed: bool = False,
    ) -> None:  # fmt: skip
        self.turn: Turn = turns.turn(principal, cost, deadline, streamed)
        self.principal = principal
        self.inside = False
        self._end = asyncio.Event()
        self.outcomes: list[str] = []
        self.error: Exception | None = None
        self.task = asyncio.create_task(self._run())
        self.task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self.outcomes.append("cancelled")

    async def _run(self) -> None:
        try:
            async with self.turn:
                self.inside = True
                self.outcomes.append("entered")
                try:
                    await self._end.wait()
                finally:
                    self.inside = False
        except asyncio.CancelledError:
            if not self.outcomes:
                raise
        except (Overloaded, DeadlineExceeded, Unavailable) as error:
            self.error = error
            self.outcomes.append(type(error).__name__)

    async def piece(self) -> float:
        """One more of its answer is sent; for how long the next one is kept back."""
        rest_s = self.turn.piece()
        await settle()
        return rest_s

    async def end(self) -> None:
        self._end.set()
        await settle()

    async def cancel(self) -> None:
        self.task.cancel()
        await settle()


async def asked(
    turns: Turns, principal: Principal, number: int, cost: float = 10, deadline: float | None = None,
    streamed: bool = False,
) -> list[Request]:  # fmt: skip
    requests = [Request(turns, principal, cost, deadline, streamed) for _ in range(number)]
    await settle()
    return requests


async def all_ended(*requests: list[Request]) -> None:
    for request in chain(*requests):
        request.task.cancel()
    await settle()


def inside(requests: list[Request]) -> int:
    return sum(request.inside for request in requests)
