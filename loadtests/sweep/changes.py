"""Two runs, one before and one after something was changed: which figures moved beyond the noise of the repeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from loadtests.records import Figures, Interval, Limits, Machine, Point, Record, Run, Side
from loadtests.sweep.aggregate import FIGURES, Figure, limits_in_words
from loadtests.sweep.errors import BenchError
from loadtests.sweep.intervals import change_of, difference_of, interval_of
from loadtests.sweep.plan import series_of

LEAST = 0.02
"""A change of less is of no interest, however sure it is."""
MATTERS = (
    "requests_per_user", "min_requests", "max_seconds", "timeout_s", "seed", "workload", "temperature", "limits",
    "warmup_requests",
)  # fmt: skip
"""Fields of a plan that the figures depend on."""
MOST_NAMES = 12
"""Of fields in one caution."""

Verdict = Literal["better", "worse", "within the noise", "not comparable"]


class Change(Record):
    """One figure of one point before and after. `change` is relative, 0.1 for 10 % more; None where it was 0 before."""

    side: str
    point: Point
    figure: str
    before: Interval
    after: Interval
    change: Interval | None
    verdict: Verdict


def changes(before: Run, after: Run) -> list[Change]:
    """Every figure that both runs have, of every point in both, in the order of the run before.

    A figure moved if the 95 % interval of its change leaves out zero and the change is over 2 %; of many figures that
    did not move, one in twenty looks as if it did. A run of single repeats borrows its noise from the other; two such
    runs are not comparable. BenchError if the runs have no endpoint in common.
    """
    return [
        change
        for mine, theirs in _sides(before, after)
        for point in before.record.plan.points
        for change in _changes(before, after, point, (mine, theirs))
    ]


def _sides(before: Run, after: Run) -> list[tuple[str, str]]:
    """The endpoints to hold together: by name, or each run's only one."""
    mine = [side.name for side in before.record.plan.sides]
    theirs = [side.name for side in after.record.plan.sides]
    if len(mine) == len(theirs) == 1:
        return [(mine[0], theirs[0])]
    both = [(name, name) for name in mine if name in theirs]
    if not both:
        raise BenchError(f"the runs have no endpoint in common: {', '.join(mine)} before, {', '.join(theirs)} after")
    return both


def _changes(before: Run, after: Run, point: Point, sides: tuple[str, str]) -> Iterator[Change]:
    first = [each.figures for each in before.of(point, sides[0])]
    second = [each.figures for each in after.of(point, sides[1])]
    for figure in FIGURES.values():
        change = _change(sides[0], point, figure, _values(first, figure), _values(second, figure))
        if change is not None:
            yield change


def _change(side: str, point: Point, figure: Figure, first: Sequence[float], second: Sequence[float]) -> Change | None:
    old, new = interval_of(first), interval_of(second)
    if old is None or new is None:
        return None
    relative = change_of(first, second)
    moved = relative or difference_of(first, second)
    return Change(
        side=side,
        point=point,
        figure=figure.name,
        before=old,
        after=new,
        change=relative,
        verdict=_verdict(moved, figure, least=LEAST if relative else 0.0),
    )


def _values(repeats: Iterable[Figures], figure: Figure) -> list[float]:
    return [value for each in repeats if (value := figure.of(each)) is not None]


def _verdict(moved: Interval, figure: Figure, least: float) -> Verdict:
    if moved.low is None or moved.high is None:
        return "not comparable"
    if moved.low <= 0 <= moved.high or abs(moved.value) <= least:
        return "within the noise"
    return "better" if (moved.value > 0) == (figure.better == "higher") else "worse"


def cautions(before: Run, after: Run) -> list[str]:
    """What else differs between two runs, in words: machines, plans, configurations, endpoints, points of only one."""
    return [
        *_differ("the machines", Machine.model_fields, before.record.machine, after.record.machine),
        *_differ("the plans", MATTERS, before.record.plan, after.record.plan),
        *_calibrations(before, after),
        *_configurations(before, after),
        *_endpoints(before, after),
        *_only(before, after, "before"),
        *_only(after, before, "after"),
        *_ended(before, "before"),
        *_ended(after, "after"),
    ]


def _said(value: object) -> str:
    if isinstance(value, Limits):
        return limits_in_words(value) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items()) or "none"
    if isinstance(value, tuple):
        return " and ".join(map(str, value)) or "none"
    return "unknown" if value in ("", None) else str(value)


def _differ(what: str, names: Iterable[str], before: Record, after: Record) -> list[str]:
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in names]
    return [
        f"{what} differ in {name}: {_said(old)} before, {_said(new)} after" for name, old, new in pairs if old != new
    ]


def _calibrations(before: Run, after: Run) -> list[str]:
    old, new = before.record.plan.calibrations, after.record.plan.calibrations
    models = [model for model in _models(before, after) if old.get(model) != new.get(model)]
    return [f"the plans differ in how words become tokens of {', '.join(models)}"] if models else []


def _configurations(before: Run, after: Run) -> list[str]:
    """By the fields' names alone: a profile's values may be long."""
    old, new = before.record.configuration, after.record.configuration
    for known, when in ((old, "before"), (new, "after")):
        if not known and old != new:
            return [f"the configuration {when} is not known"]
    names = list(_paths("", old, new))
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return [f"the configurations differ in {', '.join(names[:MOST_NAMES])}{more}"] if names else []


def _paths(name: str, old: object, new: object) -> Iterator[str]:
    """Where two configurations differ: `models.llama.engine.max_num_seqs`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _paths(f"{name}.{key}".lstrip("."), old.get(key), new.get(key))
    elif old != new:
        yield name


def _models(before: Run, after: Run) -> list[str]:
    """Those of both."""
    there = {point.model for point in after.record.plan.points}
    return [model for model in dict.fromkeys(point.model for point in before.record.plan.points) if model in there]


def _endpoints(before: Run, after: Run) -> list[str]:
    told = []
    for mine, theirs in _sides(before, after):
        old = next(side for side in before.record.plan.sides if side.name == mine)
        new = next(side for side in after.record.plan.sides if side.name == theirs)
        told += _differ("the endpoints", ("name", "server"), old, new)
        told += [said for model in _models(before, after) for said in _gpus(model, old, new)]
    return told


def _gpus(model: str, before: Side, after: Side) -> list[str]:
    old, new = before.gpus_of.get(model, before.gpus), after.gpus_of.get(model, after.gpus)
    return [f"the endpoints differ in the GPUs of {model}: {_said(old)} before, {_said(new)} after"] * (old != new)


def _only(run: Run, other: Run, when: str) -> list[str]:
    there = {each.point for each in other.measurements}
    here = dict.fromkeys(each.point for each in run.measurements)
    return [f"only {when}: {series_of(point)}, {point.load}" for point in here if point not in there]


def _ended(run: Run, when: str) -> list[str]:
    because = run.record.ended_because
    return [f"the run {when} ended early: {because}"] if because else []
