"""What is swept, from what people write; and plans that cannot be measured."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.records import Kind, Limits, Plan, Point
from loadtests.sweep.errors import PlanError
from loadtests.sweep.plan import (
    check,
    concurrencies_of,
    differing,
    kinds_of,
    lengths_of,
    load_of,
    points_of,
    rates_of,
    series_of,
)
from tests.unit.load_sweep_fakes import plan, point


def test_the_default_is_one_to_256_users() -> None:
    points = points_of(["llama"])
    assert [each.concurrency for each in points] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert {(each.kind, each.input_tokens, each.output_tokens, each.rate) for each in points} == {
        (Kind.CHAT, 128, 128, None)
    }


def test_loads_rise_within_a_series_and_nothing_is_there_twice() -> None:
    points = points_of(["b", "a", "b"], (4, 1, 4), (2.0, 0.5), ((8, 8), (64, 8)), (Kind.CHAT, Kind.SINGLE))
    assert len(points) == len(set(points)) == 2 * 2 * 2 * 4
    assert points[0].model == "b"
    series: dict[str, list[float]] = {}
    for each in points:
        series.setdefault(series_of(each), []).append(load_of(each))
    assert set(map(tuple, series.values())) == {(1, 4), (0.5, 2.0)}
    assert "b, chat, 64:8 tokens, arrivals" in series


def test_with_rates_alone_there_is_no_closed_loop() -> None:
    assert [each.load for each in points_of(["m"], rates=(0.5, 3))] == ["0.5/s", "3/s"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2,4", (1, 2, 4)),
        ("1..256", (1, 2, 4, 8, 16, 32, 64, 128, 256)),
        ("3..20", (3, 6, 12, 20)),
        ("8..8", (8,)),
        ("1..4, 100", (1, 2, 4, 100)),
        (" 4,1 ,4,", (1, 4)),
    ],
)
def test_concurrency_as_people_write_it(text: str, expected: tuple[int, ...]) -> None:
    assert concurrencies_of(text) == expected


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(0, 3000))
def test_a_range_doubles_and_ends_where_it_says(first: int, more: int) -> None:
    found = concurrencies_of(f"{first}..{first + more}")
    assert (found[0], found[-1]) == (first, first + more)
    assert all(later == 2 * earlier for earlier, later in pairwise(found[:-1]))
    assert all(later <= 2 * earlier for earlier, later in pairwise(found))


def test_rates_lengths_and_kinds_as_people_write_them() -> None:
    assert rates_of("2,0.5") == (0.5, 2)
    assert lengths_of("128:128, 1024:128,128:128") == ((128, 128), (1024, 128))
    assert kinds_of("bulk,chat") == (Kind.BULK, Kind.CHAT)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (concurrencies_of, "", "concurrency: '' has nothing in it"),
        (concurrencies_of, "many", "concurrency: 'many' is not a whole number"),
        (concurrencies_of, "1.5", "concurrency: '1.5' is not a whole number"),
        (concurrencies_of, "0", "concurrency: 0 is not a number above 0"),
        (concurrencies_of, "8..1", "concurrency: 8..1 goes down: write 1..8"),
        (concurrencies_of, "..8", "concurrency: '' is not a whole number"),
        (rates_of, "-1", "rate: -1 is not a number above 0"),
        (rates_of, "nan", "rate: nan is not a number above 0"),
        (rates_of, "inf", "rate: inf is not a number above 0"),
        (lengths_of, "128", "lengths: '128' is not INPUT:OUTPUT in tokens, as in 128:128"),
        (lengths_of, "128:0", "lengths: 0 is not a number above 0"),
        (kinds_of, "chatting", "kinds: there is no 'chatting'; there are chat, single, bulk, tribunal, rag"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_field(read: object, text: str, message: str) -> None:
    assert callable(read)
    with pytest.raises(PlanError) as raised:
        read(text)
    assert str(raised.value) == message


def test_points_of_nothing_are_refused() -> None:
    with pytest.raises(PlanError, match="models: at least one"):
        points_of([])
    with pytest.raises(PlanError, match="lengths: 0 is not"):
        points_of(["m"], lengths=((0, 4),))
    with pytest.raises(PlanError, match="concurrency: -1 is not"):
        points_of(["m"], (-1,))
    with pytest.raises(PlanError, match="rate: bulk calls have none, they are sent by users: give a concurrency"):
        points_of(["m"], (1,), (0.5,), kinds=(Kind.CHAT, Kind.BULK))
    assert len(points_of(["m"], (1,), kinds=(Kind.CHAT, Kind.BULK))) == 2


def test_lengths_of_a_file_are_not_told_as_numbers() -> None:
    assert series_of(Point(model="m", concurrency=1, own_lengths=True)) == "m, chat, lengths of the file, users"


def with_models(*models: str) -> Plan:
    asked = plan(point())
    return asked.model_copy(update={"sides": (asked.sides[0].model_copy(update={"models": models}),)})


def test_a_plan_that_can_be_measured_passes() -> None:
    check(plan(point(1), point(2), sides=("corral", "bare"), limits=Limits(ttft_ms=100)))
    check(with_models("n", "m"))


def test_a_tribunals_name_is_not_looked_for_among_the_models() -> None:
    asked = with_models("n")
    check(asked.model_copy(update={"points": (point().model_copy(update={"kind": Kind.TRIBUNAL}),)}))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (plan(point(), point()), "points: 'm, chat, 1 user, 8:10 tokens' is there 2 times"),
        (plan(sides=("a", "a")), "sides: 'a' is there 2 times"),
        (plan(sides=()), "sides: an endpoint is needed"),
        (plan().model_copy(update={"points": ()}), "points: there is nothing to measure"),
        (plan(Point(model="m")), "points: m needs a concurrency or a rate, and not both"),
        (plan(Point(model="m", concurrency=1, rate=1)), "points: m needs a concurrency or a rate, and not both"),
        (
            plan(Point(model="m", rate=1, kind=Kind.BULK)),
            "rate: bulk calls have none, they are sent by users: give a concurrency, or leave bulk out",
        ),
        (plan(limits=Limits(itl_ms=-5)), "limits.itl_ms: -5 is not a number above 0"),
        (with_models("n", "o"), "models: 'corral' has no 'm'; it has n, o"),
    ],
)
def test_a_plan_that_cannot_be_measured_is_refused(asked: Plan, message: str) -> None:
    with pytest.raises(PlanError) as raised:
        check(asked)
    assert str(raised.value) == message


def test_two_plans_differ_in_named_fields() -> None:
    kept, asked = plan(point(1), repeats=3), plan(point(1), repeats=5, limits=Limits(ttft_ms=9))
    assert differing(kept, asked) == ["repeats: 3 there, 5 asked for", "limits.ttft_ms: None there, 9.0 asked for"]
    assert differing(kept, kept) == []
    assert differing(kept, plan(point(2))) == ["points[0].concurrency: 1 there, 2 asked for"]
    assert differing(kept, plan(point(1), point(2))) == ["points: 1 there, 2 asked for"]
    assert differing(kept, plan(point(1), sides=("x",)))[0] == "sides[0].name: 'corral' there, 'x' asked for"
