"""Two endpoints that were asked in turn: every figure of every point as a ratio and as a difference of their pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from loadtests.records import Difference, Figures, Point, Ratio, Run
from loadtests.sweep.aggregate import FIGURES, Figure
from loadtests.sweep.errors import BenchError
from loadtests.sweep.intervals import paired_difference_of, ratio_of


@dataclass(frozen=True)
class Pairs:
    """A figure of the repeats that both sides have: a load on the machine that came and went met both."""

    point: Point
    figure: str
    ours: list[float]
    other: list[float]


def ratios(run: Run, ours: str, other: str) -> list[Ratio]:
    """Ours over the other's, point by point in the plan's order. BenchError for a side that the run has not.

    `ours` and `other` are the means over the pairs. A figure that no pair has, or that is 0 on the other side, has no
    ratio.
    """
    return [ratio for each in _pairs(run, ours, other) if (ratio := _ratio(each)) is not None]


def differences(run: Run, ours: str, other: str) -> list[Difference]:
    """Ours less the other's, as `ratios`; 0 on the other side is no hindrance."""
    return [
        Difference(point=each.point, figure=each.figure, difference=paired_difference_of(each.ours, each.other))
        for each in _pairs(run, ours, other)
    ]


def _ratio(pairs: Pairs) -> Ratio | None:
    ratio = ratio_of(pairs.ours, pairs.other)
    if ratio is None:
        return None
    return Ratio(
        point=pairs.point, figure=pairs.figure, ours=fmean(pairs.ours), other=fmean(pairs.other), ratio=ratio
    )  # fmt: skip


def _pairs(run: Run, ours: str, other: str) -> Iterator[Pairs]:
    """Each has at least one pair."""
    names = [side.name for side in run.record.plan.sides]
    for name in (ours, other):
        if name not in names:
            raise BenchError(f"side: the run has no '{name}'; it has {', '.join(names)}")
    for point in run.record.plan.points:
        both = _measured_by_both(run, point, ours, other)
        found = (_pairs_of(point, figure, both) for figure in FIGURES.values())
        yield from (each for each in found if each.ours)


def _measured_by_both(run: Run, point: Point, ours: str, other: str) -> list[tuple[Figures, Figures]]:
    theirs = {each.repeat: each.figures for each in run.of(point, other)}
    return [(each.figures, theirs[each.repeat]) for each in run.of(point, ours) if each.repeat in theirs]


def _pairs_of(point: Point, figure: Figure, both: Sequence[tuple[Figures, Figures]]) -> Pairs:
    told = [(figure.of(mine), figure.of(theirs)) for mine, theirs in both]
    pairs = [(mine, theirs) for mine, theirs in told if mine is not None and theirs is not None]
    return Pairs(point, figure.name, [mine for mine, _ in pairs], [theirs for _, theirs in pairs])
