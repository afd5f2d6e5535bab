"""QuietKeys: while keys ask that have far less inside than a flood has, the flood may have a part of its places only.

For an engine whose every step takes everybody as long as all that is in it: a free place alone helps nobody there. Its
prompts are read one at a time then, since one that comes waits for the step under way, and its text goes out in fewer
pieces, each of which takes time of the processes before the engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable

TIMES_QUIET = 2
"""A flood may have so many times the places of quieter keys: nobody is starved by them."""
LINGER_S = 2.0
"""After a quiet key's request its next one is expected for so long."""
PIECE_S = 0.03
"""Between two pieces of a flood's answer: still a stream to the eye."""


class QuietKeys:
    """most_beside: what one key may have inside beside them; inf where that is nobody's concern."""

    def __init__(self, most_beside: float, clock: Callable[[], float]) -> None:
        self._most_beside, self._clock = most_beside, clock
        self._left_at = -math.inf
        self.came = False
        """Whether there ever was one: asked for at every token."""
        self.inside = 0
        """Requests that were a quiet key's when they began."""
        self.reading = 0
        """Requests that began while quiet keys were expected, and had no first token yet."""

    @property
    def matter(self) -> bool:
        return self._most_beside < math.inf

    def began(self) -> None:
        self.came = True
        self.inside += 1

    def ended(self) -> None:
        self.inside -= 1
        self._left_at = self._clock()

    def expected_s(self) -> float:
        """For how long they may still ask; inf while one is inside, 0 or less when they are gone."""
        return math.inf if self.inside else self._left_at + LINGER_S - self._clock()

    def most_inside(self) -> float:
        """Of one key, for another of it to begin now."""
        if self.expected_s() <= 0:
            return math.inf
        most = max(self._most_beside, TIMES_QUIET * self.inside)
        return min(most, TIMES_QUIET) if self.reading else most

    def rest_s(self, inside: int) -> float:
        """How long a key with so many inside keeps the next piece of an answer back."""
        return PIECE_S if inside > TIMES_QUIET * max(1, self.inside) and self.expected_s() > 0 else 0.0
