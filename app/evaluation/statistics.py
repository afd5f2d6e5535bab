"""How sure a figure is. Everything is for 95 %."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054
"""The standard normal distribution has 95 % of itself between -Z and Z."""
RESAMPLES = 10_000
EXACT = 12
"""Decimals of a difference; what weighted outcomes leave behind these is no difference."""

Hits = NDArray[np.float64]
"""Outcomes of tasks, 1 for right and 0 for wrong, or a weighted mean of two."""


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def wilson(hits: int, count: int) -> Interval:
    """Wilson's score interval of a share; of nothing, everything is possible."""
    if not count:
        return Interval(0.0, 1.0)
    share = hits / count
    middle = share + Z * Z / (2 * count)
    margin = Z * sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    whole = 1 + Z * Z / count
    # at its ends the interval would be off them by rounding
    low = (middle - margin) / whole if hits else 0.0
    return Interval(low, (middle + margin) / whole if hits < count else 1.0)


def paired_bootstrap(first: Hits, second: Hits, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Percentile interval of mean(first) - mean(second), where both are outcomes of the same tasks in the same order.

    Tasks are drawn anew, each with both its outcomes. Few differences occur, so that how often each is drawn is drawn.
    """
    differences = np.round(first - second, EXACT)
    if not differences.size:
        return Interval(-1.0, 1.0)
    values, counts = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(differences.size, counts / differences.size, size=resamples)
    low, high = np.percentile(drawn @ values / differences.size, [2.5, 97.5])
    return Interval(round(float(low), EXACT), round(float(high), EXACT))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided p of McNemar's test: how likely the tasks that only one gets right fall apart so or worse."""
    pairs = list(zip(first, second, strict=True))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    count = only_first + only_second
    tail = sum(comb(count, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / (1 << count))
