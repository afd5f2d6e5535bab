"""What is swept: models x kinds x lengths x loads -> points whose loads rise; and what is wrong with a plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import TypeVar

from loadtests.records import Kind, Plan, Point, Record, Side
from loadtests.sweep.errors import PlanError

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LENGTHS = ((128, 128),)
LISTED = {Kind.CHAT, Kind.SINGLE, Kind.BULK}
"""Kinds whose model is one that the endpoint lists; tribunals and RAG have names of their own."""
Number = TypeVar("Number", int, float)


def points_of(
    models: Sequence[str],
    concurrencies: Sequence[int] = (),
    rates: Sequence[float] = (),
    lengths: Sequence[tuple[int, int]] = LENGTHS,
    kinds: Sequence[Kind] = (Kind.CHAT,),
) -> tuple[Point, ...]:
    """All points, series by series, each with rising concurrencies and then rising rates, none twice.

    Without a concurrency or a rate it is 1 to 256 users. `lengths` are (input, output) in tokens. PlanError for
    nothing at all, for a number that is not above 0, and for bulk at a rate.
    """
    for name, given in (("models", models), ("lengths", lengths), ("kinds", kinds)):
        if not given:
            raise PlanError(f"{name}: at least one is needed")
    for asked, answered in lengths:
        _above_zero("lengths", (asked, answered))
    for kind in kinds if rates else ():
        _require_users(kind)
    loads = _loads(concurrencies or (() if rates else CONCURRENCIES), rates)
    return tuple(
        Point(model=model, kind=kind, input_tokens=asked, output_tokens=answered, concurrency=users, rate=rate)
        for model, kind, (asked, answered), (users, rate) in product(
            dict.fromkeys(models), dict.fromkeys(kinds), dict.fromkeys(lengths), loads
        )
    )


def _loads(concurrencies: Sequence[int], rates: Sequence[float]) -> list[tuple[int | None, float | None]]:
    _above_zero("concurrency", concurrencies)
    _above_zero("rate", rates)
    return [*((each, None) for each in sorted(set(concurrencies))), *((None, each) for each in sorted(set(rates)))]


def _require_users(kind: Kind) -> None:
    if kind is Kind.BULK:
        raise PlanError("rate: bulk calls have none, they are sent by users: give a concurrency, or leave bulk out")


def _above_zero(name: str, values: Iterable[float]) -> None:
    for each in values:
        if not (each > 0 and math.isfinite(each)):
            raise PlanError(f"{name}: {each:g} is not a number above 0")


def concurrencies_of(text: str) -> tuple[int, ...]:
    """`1,2,4` or `1..256`, which doubles from the first to the last, or both: `1..64,100`. Else PlanError."""
    found: list[int] = []
    for part in _parts("concurrency", text):
        first, dots, last = part.partition("..")
        if dots:
            found += _doubling(_number("concurrency", first, int), _number("concurrency", last, int))
        else:
            found.append(_number("concurrency", part, int))
    return tuple(sorted(set(found)))


def _doubling(first: int, last: int) -> list[int]:
    """The last is always in it."""
    if first > last:
        raise PlanError(f"concurrency: {first}..{last} goes down: write {last}..{first}")
    steps = [first << step for step in range((last // first).bit_length())]
    return [*(each for each in steps if each < last), last]


def rates_of(text: str) -> tuple[float, ...]:
    """Arrivals per second: `0.5,1,2`. Else PlanError."""
    return tuple(sorted({_number("rate", part, float) for part in _parts("rate", text)}))


def lengths_of(text: str) -> tuple[tuple[int, int], ...]:
    """Input and output tokens: `128:128,1024:128`. Else PlanError."""
    found = []
    for part in _parts("lengths", text):
        asked, colon, answered = part.partition(":")
        if not colon:
            raise PlanError(f"lengths: '{part}' is not INPUT:OUTPUT in tokens, as in 128:128")
        found.append((_number("lengths", asked, int), _number("lengths", answered, int)))
    return tuple(dict.fromkeys(found))


def kinds_of(text: str) -> tuple[Kind, ...]:
    """`chat,bulk`. Else PlanError, with the kinds there are."""
    found = _parts("kinds", text)
    for part in found:
        if part not in set(Kind):
            raise PlanError(f"kinds: there is no '{part}'; there are {', '.join(Kind)}")
    return tuple(dict.fromkeys(map(Kind, found)))


def _parts(name: str, text: str) -> list[str]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise PlanError(f"{name}: '{text}' has nothing in it")
    return found


def _number(name: str, text: str, kind: Callable[[str], Number]) -> Number:
    try:
        value = kind(text.strip())
    except ValueError:
        whole = "a whole number" if kind is int else "a number"
        raise PlanError(f"{name}: '{text.strip()}' is not {whole}") from None
    _above_zero(name, (value,))
    return value


def check(plan: Plan) -> None:
    """PlanError for a plan that cannot be measured, before anything is."""
    if not plan.sides:
        raise PlanError("sides: an endpoint is needed")
    if not plan.points:
        raise PlanError("points: there is nothing to measure")
    _no_twice("sides", [side.name for side in plan.sides])
    for point in plan.points:
        _check_point(point, plan.sides)
    _no_twice("points", [f"{each.model}, {each.kind}, {each.load}, {_lengths(each)}" for each in plan.points])
    for name, limit in plan.limits:
        if limit is not None:
            _above_zero(f"limits.{name}", (limit,))


def _check_point(point: Point, sides: Sequence[Side]) -> None:
    if (point.concurrency is None) == (point.rate is None):
        raise PlanError(f"points: {point.model} needs a concurrency or a rate, and not both")
    if point.rate is not None:
        _require_users(point.kind)
    for side in sides:
        if point.kind in LISTED and side.models and point.model not in side.models:
            raise PlanError(f"models: '{side.name}' has no '{point.model}'; it has {', '.join(side.models)}")


def _lengths(point: Point) -> str:
    return "lengths of the file" if point.own_lengths else f"{point.input_tokens}:{point.output_tokens} tokens"


def _no_twice(name: str, values: Iterable[str]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise PlanError(f"{name}: '{value}' is there {count} times")


def series_of(point: Point) -> str:
    """What a point has in common with those of other loads, in words: `llama, chat, 128:128 tokens, users`."""
    load = "users" if point.concurrency is not None else "arrivals"
    return f"{point.model}, {point.kind}, {_lengths(point)}, {load}"


def load_of(point: Point) -> float:
    """The load as a number, to order a series by."""
    return point.concurrency if point.concurrency is not None else point.rate or 0.0


def differing(kept: Plan, asked: Plan) -> list[str]:
    """Where two plans differ, each with both values: `repeats: 3 there, 5 asked for`."""
    return list(_differing("", kept, asked))


def _differing(name: str, there: object, now: object) -> Iterator[str]:
    if there == now:
        return
    if isinstance(there, Record) and isinstance(now, Record):
        for field in type(there).model_fields:
            yield from _differing(f"{name}.{field}".lstrip("."), getattr(there, field), getattr(now, field))
    elif isinstance(there, tuple) and isinstance(now, tuple):
        yield from _differing_items(name, there, now)
    else:
        yield f"{name}: {there!r} there, {now!r} asked for"


def _differing_items(name: str, there: tuple[object, ...], now: tuple[object, ...]) -> Iterator[str]:
    if len(there) != len(now):
        yield f"{name}: {len(there)} there, {len(now)} asked for"
        return
    # the first is enough: a sweep has many points
    first = next(index for index, (old, new) in enumerate(zip(there, now, strict=True)) if old != new)
    yield from _differing(f"{name}[{first}]", there[first], now[first])
