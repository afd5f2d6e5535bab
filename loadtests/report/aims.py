"""What a run is meant to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from loadtests.records import Aggregate, Difference, Interval, Point, Ratio, Record
from loadtests.report import words
from loadtests.sweep.aggregate import FIGURES
from loadtests.sweep.plan import series_of

Of = Literal["value", "ratio", "difference"]
Intervals = Mapping[tuple[Of, str, Point], Interval]
"""By what an aim is about, the figure's name and the point."""


class Aim(Record):
    """A bound for one figure. Exactly one of `at_least` and `at_most` is set; the wrong one is a ValueError."""

    figure: str = Field(description="a name of loadtests.sweep.aggregate.FIGURES")
    of: Of = Field("value", description="the figure itself, or what it is over the other side's, or less than it")
    at_least: float | None = None
    at_most: float | None = None
    model: str = Field("", description="a model's name, or a size that is told in it: 1b; empty: every model")
    concurrency: tuple[int, ...] = Field((), description="users; empty: every load that was measured")

    @model_validator(mode="after")
    def _sound(self) -> Aim:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("an aim has one bound: give at_least or at_most")
        if self.figure not in FIGURES:
            raise ValueError(f"no figure is called {self.figure!r}; there are {', '.join(FIGURES)}")
        return self

    @property
    def sentence(self) -> str:
        """`ITL p95 at most 10 ms`, `output tokens/s: ratio at least 0.95`."""
        bound = f"at most {self.at_most:g}" if self.at_most is not None else f"at least {self.at_least:g}"
        unit = f" {FIGURES[self.figure].unit}" if self.of != "ratio" and self.figure not in words.RATES else ""
        return f"{words.figure(self.figure)}{'' if self.of == 'value' else f': {self.of}'} {bound}{unit}"

    def concerns(self, point: Point) -> bool:
        asked = self.model in ("", point.model) or self.model.lower() == words.size_of(point.model)
        return asked and (not self.concurrency or point.concurrency in self.concurrency)

    def holds(self, value: float) -> bool:
        return value <= self.at_most if self.at_most is not None else value >= (self.at_least or 0.0)


@dataclass(frozen=True)
class Judged:
    """An aim at one point. `found` is None where it was not measured, and so is `point` where no point is concerned."""

    aim: Aim
    point: Point | None
    found: Interval | None

    @property
    def kept(self) -> bool | None:
        return None if self.found is None else self.aim.holds(self.found.value)

    @property
    def sure(self) -> bool:
        """Whether the whole interval is on the same side of the bound; a single repeat is never sure."""
        if self.found is None or self.found.low is None or self.found.high is None:
            return False
        return self.aim.holds(self.found.low) == self.aim.holds(self.found.high) == self.kept

    @property
    def verdict(self) -> str:
        if self.kept is None:
            return "not measured"
        return ("kept" if self.kept else "missed") + ("" if self.sure else ", within the noise")


def intervals_of(
    aggregates: Iterable[Aggregate], ratios: Iterable[Ratio], differences: Iterable[Difference], ours: str
) -> Intervals:
    """What was measured of the side `ours`, and of it beside the other one."""
    values = (each for each in aggregates if each.side == ours)
    return (
        {("value", name, each.point): found for each in values for name, found in each.figures.items()}
        | {("ratio", each.figure, each.point): each.ratio for each in ratios}
        | {("difference", each.figure, each.point): each.difference for each in differences}
    )


def judged(aims: Iterable[Aim], planned: Sequence[Point], intervals: Intervals) -> tuple[Judged, ...]:
    """Each aim at each point that it concerns, measured or not."""
    measured = {point for _, _, point in intervals}
    found: list[Judged] = []
    for aim in aims:
        points = _points(aim, planned, measured) or [None]
        found += [Judged(aim, each, intervals.get((aim.of, aim.figure, each)) if each else None) for each in points]
    return tuple(found)


def _points(aim: Aim, planned: Sequence[Point], measured: Collection[Point]) -> list[Point | None]:
    """Where an aim is judged: at the users that it names, planned or not; else at every load that was measured."""
    if not aim.concurrency:
        begun = {series_of(each) for each in measured}
        # a series that ends where more users only wait longer is whole; one that never began is not
        first = {series_of(each): each for each in reversed(planned) if series_of(each) not in begun}
        return [each for each in planned if aim.concerns(each) and (each in measured or each in first.values())]
    named = (
        each.model_copy(update={"concurrency": users, "rate": None}) for users in aim.concurrency for each in planned
    )
    asked = [*planned, *named]  # the planned ones first, for their order
    return list(dict.fromkeys(each for each in asked if aim.concerns(each)))
