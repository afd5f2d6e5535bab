"""How sure a figure is after some repeats. Everything is for 95 %.

A figure: the mean of its repeats with Student's t. A ratio or a difference of two sides that were measured in turn: the
median of the repeats' own ones; its interval is the sign test's (order statistics: no distribution is assumed, one
disturbed repeat does not move it) from six repeats on. Fewer cannot reach 95 % that way, the whole range of three
covers 75 %, so that they have Student's t around their mean, which is wider. A relative change of two runs: the delta
method with Welch's degrees of freedom. One repeat says nothing of its own noise and has no bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, inf, sqrt
from statistics import fmean, median, variance

from loadtests.records import Interval

T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t at 0.975 for 1 to 30 degrees of freedom."""
Z_975 = 1.959964
SIGN_TEST_FROM = 6
"""Repeats from which the whole range covers the median in 95 % of cases: 1 - 2 / 2**6 = 0.969."""


def student(freedom: float) -> float:
    """Student's t at 0.975; degrees between two of the table take the lower, which is the wider interval."""
    if freedom < 1:
        return T_975[0]
    # beyond the table the first term of its expansion is exact to three decimals
    return T_975[int(freedom) - 1] if freedom < 31 else Z_975 + (Z_975**3 + Z_975) / (4 * freedom)


def interval_of(values: Sequence[float | None]) -> Interval | None:
    """The mean over repeats, of those that have the figure; None if none has. A figure of no negative value has no
    negative bound."""
    told = [each for each in values if each is not None]
    return _mean_of(told, least=0.0 if min(told) >= 0 else -inf) if told else None


def _mean_of(told: Sequence[float], least: float) -> Interval:
    """At least one value; no bound is below `least`."""
    mean = fmean(told)
    if len(told) < 2:
        return Interval(value=mean)
    margin = student(len(told) - 1) * sqrt(variance(told) / len(told))
    return Interval(value=mean, low=max(least, mean - margin), high=mean + margin, repeats=len(told))


def ratio_of(ours: Sequence[float | None], other: Sequence[float | None]) -> Interval | None:
    """The median of ours/other over repeats in the same order.

    A pair that lacks a figure, or has 0 below the line, has no ratio; None if no pair has.
    """
    pairs = zip(ours, other, strict=True)
    ratios = [above / below for above, below in pairs if above is not None and below]
    return _median_of(ratios, least=0.0) if ratios else None


def paired_difference_of(ours: Sequence[float], other: Sequence[float]) -> Interval:
    """The median of ours - other over repeats in the same order, at least one; its bounds may be on both sides of 0."""
    return _median_of([mine - theirs for mine, theirs in zip(ours, other, strict=True)], least=-inf)


def _median_of(told: Sequence[float], least: float) -> Interval:
    if len(told) < SIGN_TEST_FROM:
        return _mean_of(told, least).model_copy(update={"value": median(told)})
    rising, out = sorted(told), _left_out(len(told))
    return Interval(value=median(rising), low=rising[out], high=rising[-1 - out], repeats=len(rising))


def _left_out(count: int) -> int:
    """How many values at each end the sign test's interval of the median does without."""
    tail, out = 1, 0
    while 2 * (tail + comb(count, out + 1)) <= 0.05 * 2**count:
        out += 1
        tail += comb(count, out)
    return out


@dataclass(frozen=True)
class Moments:
    """A figure's mean, the variance of that mean, and its degrees of freedom."""

    mean: float
    spread: float
    freedom: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Moments:
        """At least one value."""
        spread = variance(values) / len(values) if len(values) > 1 else 0.0
        return cls(fmean(values), spread, len(values) - 1)

    def as_noisy_as(self, other: Moments) -> Moments:
        """One repeat with the relative noise of the other's repeats."""
        if self.freedom or not other.mean:
            return self
        single = other.spread * (other.freedom + 1)
        return Moments(self.mean, single * (self.mean / other.mean) ** 2, 0)


def change_of(before: Sequence[float], after: Sequence[float]) -> Interval | None:
    """after/before - 1 of two runs that know nothing of each other, each with one repeat at least.

    None where it was 0 before. If only one run has repeats, the other is taken to be as noisy; without any there are
    no bounds.
    """
    first, second = _moments(before, after)
    if not first.mean:
        return None
    ratio = second.mean / first.mean
    repeats = min(len(before), len(after))
    if not first.freedom and not second.freedom:
        return Interval(value=ratio - 1, repeats=repeats)
    parts = (second.spread / first.mean**2, ratio**2 * first.spread / first.mean**2)
    margin = student(_welch(parts, (second.freedom, first.freedom))) * sqrt(sum(parts))
    return Interval(value=ratio - 1, low=ratio - 1 - margin, high=ratio - 1 + margin, repeats=repeats)


def difference_of(before: Sequence[float], after: Sequence[float]) -> Interval:
    """after - before in the figure's unit, as `change_of` has it; for what was 0 before."""
    first, second = _moments(before, after)
    value, repeats = second.mean - first.mean, min(len(before), len(after))
    if not first.freedom and not second.freedom:
        return Interval(value=value, repeats=repeats)
    parts = (second.spread, first.spread)
    margin = student(_welch(parts, (second.freedom, first.freedom))) * sqrt(sum(parts))
    return Interval(value=value, low=value - margin, high=value + margin, repeats=repeats)


def _moments(before: Sequence[float], after: Sequence[float]) -> tuple[Moments, Moments]:
    first, second = Moments.of(before), Moments.of(after)
    return first.as_noisy_as(second), second.as_noisy_as(first)


def _welch(parts: tuple[float, float], freedoms: tuple[int, int]) -> float:
    """Degrees of freedom of a sum of variances. A part that borrowed its noise has none of its own."""
    freedom = max(freedoms)
    if not all(freedoms):
        return freedom
    below = sum(part**2 / free for part, free in zip(parts, freedoms, strict=True))
    return sum(parts) ** 2 / below if below else sum(freedoms)
