"""How many bulk items of a lane (a base model) this process has under way, and whose are next: keys take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from deployments.fair_order import FairOrder
from deployments.principal import CURRENT, Principal

BATCH = 32
"""Items of one call to a model: what a call costs both ends is a third of what a short answer costs the engine."""


@dataclass(eq=False)
class _Batch:
    principal: Principal
    count: int
    turn: asyncio.Future[None]


class Gate:
    """Places of a lane, given to batches in weighted fair order among groups and keys; a batch gets all of its at once.

    A later batch never passes the one that is next, however few places it needs.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._order: FairOrder[_Batch] = FairOrder(places)

    async def take(self, count: int) -> None:
        """Wait for so many places, at most as many as there are; for the principal at hand."""
        batch = _Batch(CURRENT.get(), count, asyncio.get_running_loop().create_future())
        self._order.push(batch.principal, batch, count)
        self._settle()
        try:
            await batch.turn
        except asyncio.CancelledError:
            if batch.turn.cancelled():
                self._order.remove(batch.principal, batch)
                self._settle()
            else:  # it had its places already
                self.give_back(count)
            raise

    def give_back(self, count: int) -> None:
        self._free += count
        self._settle()

    def _settle(self) -> None:
        while batch := self._order.next():
            if batch.turn.done():  # given up in this moment
                self._order.remove(batch.principal, batch)
                continue
            if batch.count > self._free:
                return
            self._order.start(batch.principal, batch)
            self._order.finish(batch.principal)  # it holds places, which are nothing to the order
            self._free -= batch.count
            batch.turn.set_result(None)


class Gates:
    """One gate per lane, shared by every bulk call that gets this object. places: of single lanes, by name."""

    def __init__(self, max_in_flight: int, places: Mapping[str, int] | None = None) -> None:
        self._max_in_flight, self._places = max_in_flight, dict(places or {})
        self._gates: dict[str, Gate] = {}

    def places(self, lane: str) -> int:
        return self._places.get(lane, self._max_in_flight)

    def batch(self, lane: str) -> int:
        """Items of one call to a model of this lane."""
        return min(BATCH, self.places(lane))

    def of(self, lane: str) -> Gate:
        return self._gates.setdefault(lane, Gate(self.places(lane)))
