"""A sliding window: how much there was within any 60 seconds, kept in buckets that never leave it too early."""

from __future__ import annotations

import math
from collections import OrderedDict

WINDOW_S = 60
TICKS = 4
"""Buckets of one second. A power of two, so that no time is rounded."""
SPAN = WINDOW_S * TICKS + 1
"""Ticks from the beginning of a bucket until it leaves: 60 s after its end."""


def tick_of(now_s: float) -> int:
    """The number of the bucket of this time."""
    return math.floor(now_s * TICKS)


def seconds_until(tick: int, now_s: float) -> float:
    return tick / TICKS - now_s


class Window:
    """Ticks must not go backwards from call to call."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[int, int] = OrderedDict()
        """Amounts by tick, from the oldest on. Empty ones stay too: their amounts may grow."""
        self._total = 0

    def __len__(self) -> int:
        return len(self._buckets)

    def total(self, tick: int) -> int:
        """All that is in the window now; what has left it is forgotten."""
        while self._buckets and next(iter(self._buckets)) + SPAN <= tick:
            self._total -= self._buckets.popitem(last=False)[1]
        return self._total

    def add(self, tick: int, amount: int) -> None:
        """Into the bucket of now. Nothing makes an empty one."""
        self.total(tick)
        self._buckets[tick] = self._buckets.get(tick, 0) + amount
        self._total += amount

    def change(self, bucket: int, amount: int) -> None:
        """Into an earlier bucket, if it is still there."""
        if bucket in self._buckets:
            self._buckets[bucket] += amount
            self._total += amount

    def fits_at(self, amount: int, limit: int, tick: int) -> int | None:
        """The first tick, from this one on, with room for so much more; None if there never is."""
        if amount > limit:
            return None
        excess = self.total(tick) + amount - limit
        at, buckets = tick, iter(self._buckets.items())
        while excess > 0:
            bucket, held = next(buckets)
            excess -= held
            at = bucket + SPAN
        return at

    def empty_at(self, tick: int) -> int:
        """The first tick, from this one on, at which nothing is left in it."""
        self.total(tick)
        return next((bucket + SPAN for bucket, held in reversed(self._buckets.items()) if held), tick)
