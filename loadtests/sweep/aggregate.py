"""A run over its repeats: every figure with its interval, where throughput saturates, how many users it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from loadtests.records import (
    Aggregate,
    Figures,
    Kind,
    Limits,
    Measurement,
    Run,
    Saturation,
)
from loadtests.sweep.intervals import interval_of

MOST = 0.95
"""Throughput is saturated from the load on that has this share of the most there was."""
HELD = 0.99
"""A load is held if this share of its requests kept the limits."""


@dataclass(frozen=True)
class Figure:
    """One figure of a measurement: how it is called, what it is in, which way is better, where it is found."""

    name: str
    label: str
    unit: str
    better: Literal["lower", "higher"]
    of: Callable[[Figures], float | None]


def _spreads() -> Iterable[Figure]:
    for name, label in (("ttft", "TTFT"), ("itl", "ITL"), ("tpot", "TPOT"), ("e2e", "end-to-end")):
        for part in ("p50", "p90", "p95", "p99", "mean"):
            yield Figure(f"{name}_{part}", f"{label} {part}", "ms", "lower", _part(name, part))


def _part(name: str, part: str) -> Callable[[Figures], float | None]:
    def of(figures: Figures) -> float | None:
        spread = getattr(figures, name)
        return None if spread is None else float(getattr(spread, part))

    return of


def _failed_share(figures: Figures) -> float | None:
    return figures.failed / figures.requests if figures.requests else None


def _queue_time(figures: Figures) -> float | None:
    return figures.engine.queue_time_mean_ms if figures.engine else None


ALL = (
    Figure("requests_per_s", "requests", "requests/s", "higher", lambda each: each.requests_per_s),
    Figure("output_tokens_per_s", "output tokens", "tokens/s", "higher", lambda each: each.output_tokens_per_s),
    Figure(
        "output_tokens_per_s_per_gpu",
        "output tokens per GPU",
        "tokens/s",
        "higher",
        lambda each: each.output_tokens_per_s_per_gpu,
    ),
    Figure(
        "gpu_seconds_per_1k_tokens",
        "GPU-seconds per 1,000 output tokens",
        "GPU-s",
        "lower",
        lambda each: each.gpu_seconds_per_1k_tokens,
    ),
    Figure("goodput_per_s", "goodput", "requests/s", "higher", lambda each: each.goodput_per_s),
    Figure("good_share", "requests that kept the limits", "share", "higher", lambda each: each.good_share),
    *_spreads(),
    Figure("failed_share", "failed requests", "share", "lower", _failed_share),
    Figure("queue_time_mean", "time in the engine's queue, mean", "ms", "lower", _queue_time),
)
FIGURES: Mapping[str, Figure] = {each.name: each for each in ALL}
"""All figures by name, in the order of reports. A share is 0 to 1."""


def aggregates(run: Run) -> list[Aggregate]:
    """Every point on every side that was measured, in the plan's order."""
    plan = run.record.plan
    keys = [(point, side.name) for point in plan.points for side in plan.sides]
    return [aggregate(run.grouped[key]) for key in keys if key in run.grouped]


def aggregate(repeats: Sequence[Measurement]) -> Aggregate:
    """The repeats of one point on one side, at least one. A figure that no repeat has is not in it."""
    figures = [each.figures for each in repeats]
    intervals = {name: interval_of([figure.of(each) for each in figures]) for name, figure in FIGURES.items()}
    faults: Counter[str] = Counter()
    for each in figures:
        faults.update(each.faults)
    return Aggregate(
        side=repeats[0].side,
        point=repeats[0].point,
        figures={name: interval for name, interval in intervals.items() if interval is not None},
        requests=sum(each.requests for each in figures),
        failed=sum(each.failed for each in figures),
        faults=dict(faults),
        notices=tuple(dict.fromkeys(notice for each in repeats for notice in each.notices)),
    )


def throughput(series: Sequence[Aggregate]) -> str:
    """The figure that says how much a series of points gets done: requests/s if any told no token counts."""
    counted = all("output_tokens_per_s" in each.figures for each in series)
    return "output_tokens_per_s" if counted else "requests_per_s"


def saturations(run: Run) -> list[Saturation]:
    """One for every side, model, kind and lengths that were measured at given numbers of users (closed loop)."""
    series: dict[tuple[str, str, Kind, int, int], list[Aggregate]] = {}
    for each in aggregates(run):
        at = each.point
        if at.concurrency is not None:
            series.setdefault((each.side, at.model, at.kind, at.input_tokens, at.output_tokens), []).append(each)
    return [_saturation(each, run.record.plan.limits) for each in series.values()]


def _saturation(series: list[Aggregate], limits: Limits) -> Saturation:
    rising = sorted(series, key=_users)
    name = throughput(rising)
    rates = [each.figures[name].value for each in rising]
    reached = _reached(rising, rates)
    holds = _holds(rising, limits)
    at = rising[0].point
    return Saturation(
        side=rising[0].side,
        model=at.model,
        kind=at.kind,
        input_tokens=at.input_tokens,
        output_tokens=at.output_tokens,
        own_lengths=at.own_lengths,
        concurrency=reached,
        output_tokens_per_s=max(rates) if name == "output_tokens_per_s" else None,
        holds=holds,
        limits=limits,
        sentence=f"{_held(rising, limits, holds)}; {_saturated(rising, reached, max(rates), FIGURES[name].unit)}",
    )


def _users(at: Aggregate) -> int:
    return at.point.concurrency or 0


def _reached(rising: Sequence[Aggregate], rates: Sequence[float]) -> int | None:
    """The fewest users with nearly the most throughput. None if those are the most users there were: it still grew."""
    if not max(rates):
        return None
    found = next(at for at, rate in zip(rising, rates, strict=True) if rate >= MOST * max(rates))
    return None if found is rising[-1] else _users(found)


def _holds(rising: Sequence[Aggregate], limits: Limits) -> int | None:
    """The most users up to whom every measured load was held; 0 if the lowest was not; None without limits."""
    if limits == Limits():
        return None
    holds = 0
    for each in rising:
        share = each.figures.get("good_share")
        if share is None or share.value < HELD:
            break
        holds = _users(each)
    return holds


def _held(rising: Sequence[Aggregate], limits: Limits, holds: int | None) -> str:
    if holds is None:
        return "no limits were set"
    asked = limits_in_words(limits)
    if not holds:
        return f"does not hold {_people(_users(rising[0]))} under {asked}"
    at_least = "at least " if holds == _users(rising[-1]) else ""
    return f"holds {at_least}{_people(holds)} under {asked}"


def _saturated(rising: Sequence[Aggregate], reached: int | None, most: float, unit: str) -> str:
    if not most:
        return "no request was answered"
    if reached is None:
        return f"throughput did not saturate up to {_people(_users(rising[-1]))}: {number(most)} {unit}"
    return f"throughput saturates at {_people(reached)}: at most {number(most)} {unit}"


def number(value: float) -> str:
    """Three digits or all whole ones."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _people(count: int) -> str:
    return f"{count} concurrent user{'' if count == 1 else 's'}"


def limits_in_words(limits: Limits) -> str:
    """The limits for people: `300 ms TTFT and 50 ms ITL p95`; empty if none is set."""
    named = (
        (limits.ttft_ms, "TTFT"),
        (limits.itl_ms, "ITL p95"),
        (limits.tpot_ms, "TPOT"),
        (limits.e2e_ms, "end-to-end"),
    )
    return " and ".join(f"{limit:g} ms {name}" for limit, name in named if limit is not None)
