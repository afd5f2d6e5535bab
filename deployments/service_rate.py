"""ServiceRate: how many requests an engine ends per second, and so how long a queue of them takes."""

from __future__ import annotations

import math
from collections.abc import Callable

Clock = Callable[[], float]
RATE_MEMORY_S = 30.0
"""What ended so long ago counts a third."""
RETRY_S = (1, 60)


class ServiceRate:
    """Requests ended per second while others waited, an exponentially weighted mean: an idle engine shows no rate."""

    def __init__(self, clock: Clock, memory_s: float = RATE_MEMORY_S) -> None:
        self._clock, self._memory_s = clock, memory_s
        self._ended = self._busy_s = 0.0
        self._busy = False
        self._at = 0.0

    def busy(self, busy: bool) -> None:
        """Whether somebody waits from now on."""
        if busy is not self._busy:
            self._go_on()
            self._busy, self._at = busy, self._clock()

    def ended(self) -> None:
        if self._busy:
            self._go_on()
            self._ended += 1

    def per_s(self) -> float:
        """While none has ended yet, what it is at most; 0 before anybody waited."""
        self._go_on()
        return max(self._ended, 1.0) / self._busy_s if self._busy_s > 0 else 0.0

    def takes_s(self, count: float) -> float:
        """Until so many have ended; 0 where nobody knows."""
        per_s = self.per_s()
        return count / per_s if per_s else 0.0

    def retry_after_s(self, position: int) -> int:
        """Until so many have ended."""
        least, most = RETRY_S
        return max(least, math.ceil(min(most, self.takes_s(position))))

    def _go_on(self) -> None:
        if not self._busy:
            return
        now = self._clock()
        kept = math.exp((self._at - now) / self._memory_s)
        self._ended *= kept
        self._busy_s = self._busy_s * kept + self._memory_s * (1 - kept)
        self._at = now
