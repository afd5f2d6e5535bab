"""Everything that a report tells of one run, computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from loadtests.records import Aggregate, Kind, Measurement, Plan, Point, Ratio, Run, RunRecord, Saturation, Side
from loadtests.report.aims import Aim, Judged, intervals_of, judged
from loadtests.report.paper import Claimed, beside_the_paper
from loadtests.sweep.aggregate import aggregates, saturations
from loadtests.sweep.side_by_side import differences, ratios


@dataclass(frozen=True)
class Shape:
    """What the points of one plot or block of rows have in common, models apart."""

    kind: Kind
    input_tokens: int
    output_tokens: int
    open_loop: bool
    own_lengths: bool = False

    @classmethod
    def of(cls, point: Point) -> Shape:
        lengths = point.input_tokens, point.output_tokens
        return cls(point.kind, *lengths, point.rate is not None, point.own_lengths)


@dataclass(frozen=True)
class Contents:
    run: Run
    aggregates: tuple[Aggregate, ...]
    """Ordered: by shape and model as in the plan, then by load, then by side."""
    saturations: tuple[Saturation, ...]
    ratios: tuple[Ratio, ...]
    """Of the first side over the second one."""
    claimed: tuple[Claimed, ...]
    judged: tuple[Judged, ...]
    command: str

    @property
    def record(self) -> RunRecord:
        return self.run.record

    @property
    def plan(self) -> Plan:
        return self.run.record.plan

    @property
    def sides(self) -> tuple[Side, ...]:
        return self.plan.sides

    @property
    def ours(self) -> str:
        return self.sides[0].name if self.sides else ""

    @property
    def other(self) -> str | None:
        return self.sides[1].name if len(self.sides) > 1 else None

    @cached_property
    def models(self) -> list[str]:
        return list(dict.fromkeys(each.model for each in _points(self.run)))

    @cached_property
    def shapes(self) -> list[Shape]:
        return list(dict.fromkeys(Shape.of(each.point) for each in self.aggregates))

    @property
    def requests(self) -> int:
        return sum(each.requests for each in self.aggregates)

    @cached_property
    def faults(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for each in self.aggregates:
            found.update(each.faults)
        return found

    @property
    def failed(self) -> int:
        return sum(each.failed for each in self.aggregates)

    def shape(self, each: Aggregate | Ratio) -> Shape:
        return Shape.of(each.point)

    def repeats(self, aggregate: Aggregate) -> list[Measurement]:
        return self.run.of(aggregate.point, aggregate.side)


def contents_of(run: Run, *, command: str = "", aims: Sequence[Aim] = ()) -> Contents:
    found, sides = tuple(_in_order(run, aggregates(run))), [each.name for each in run.record.plan.sides]
    compared = tuple(ratios(run, sides[0], sides[1])) if len(sides) > 1 else ()
    apart = differences(run, sides[0], sides[1]) if len(sides) > 1 else ()
    saturated = tuple(saturations(run))
    return Contents(
        run=run,
        aggregates=found,
        saturations=saturated,
        ratios=compared,
        claimed=beside_the_paper(found, saturated),
        judged=judged(aims, run.record.plan.points, intervals_of(found, compared, apart, sides[0] if sides else "")),
        command=command,
    )


def _points(run: Run) -> list[Point]:
    return [*run.record.plan.points, *(each.point for each in run.measurements)]


def _in_order(run: Run, found: Sequence[Aggregate]) -> list[Aggregate]:
    points = _points(run)
    shapes = list(dict.fromkeys(Shape.of(each) for each in points))
    models = list(dict.fromkeys(each.model for each in points))
    sides = list(dict.fromkeys([*(each.name for each in run.record.plan.sides), *(each.side for each in found)]))

    def place(each: Aggregate) -> tuple[int, int, float, int]:
        load = each.point.concurrency or each.point.rate or 0.0
        return shapes.index(Shape.of(each.point)), models.index(each.point.model), load, sides.index(each.side)

    return sorted(found, key=place)
