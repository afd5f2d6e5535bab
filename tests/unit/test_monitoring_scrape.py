"""What is counted between two scrapes, whatever began anew meanwhile."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from app.monitoring.scrape import Between, Scrape, quantile

BOUNDS = (0.1, 0.5, 1.0, 5.0)
Counts = st.lists(st.integers(0, 1000), min_size=1, max_size=6)


def counters(at: float, *values: int) -> Scrape:
    lines = [f'c_total{{replica="r{number}",model="m"}} {value}' for number, value in enumerate(values)]
    return Scrape.of("\n".join(["# TYPE c_total counter", *lines, ""]), at)


def histogram(observed: list[float]) -> str:
    registry = CollectorRegistry()
    seconds = Histogram("h", "Seconds.", ("model",), buckets=BOUNDS, registry=registry)
    for value in observed:
        seconds.labels("m").observe(value)
    return generate_latest(registry).decode()


@settings(deadline=None)
@given(before=Counts, more=Counts)
def test_increases_of_replicas_add_up(before: list[int], more: list[int]) -> None:
    count = min(len(before), len(more))
    later = [first + second for first, second in zip(before[:count], more[:count], strict=True)]
    between = Between(counters(1, *before[:count]), counters(3, *later))
    assert between.increase("c_total", model="m") == sum(more[:count])
    assert between.per_s("c_total") == pytest.approx(sum(more[:count]) / 2)
    assert between.increase("c_total", model="other") == 0


@settings(deadline=None)
@given(before=Counts, now=Counts)
def test_an_increase_is_never_negative_and_never_more_than_was_counted(before: list[int], now: list[int]) -> None:
    between = Between(counters(1, *before), counters(2, *now))
    assert 0 <= between.increase("c_total") <= sum(now)


def test_a_counter_that_fell_began_anew_and_one_that_is_new_counts_whole() -> None:
    between = Between(counters(1, 100, 5), counters(2, 7, 6, 4))
    assert between.by("replica", "c_total") == {"r0": 7, "r1": 1, "r2": 4}


@settings(deadline=None)
@given(observed=st.lists(st.floats(0, 10), max_size=40), share=st.floats(0, 1), other=st.floats(0, 1))
def test_a_quantile_lies_in_the_bucket_of_the_value_that_it_stands_for(
    observed: list[float], share: float, other: float
) -> None:
    empty, whole = Scrape.of(histogram([]), 1), Scrape.of(histogram(observed), 2)
    between = Between(empty, whole)
    found = between.quantile(share, "h", model="m")
    if not observed:
        assert found is None
        return
    assert found is not None
    exact = sorted(observed)[max(0, math.ceil(share * len(observed)) - 1)]
    low = max((bound for bound in (0.0, *BOUNDS) if bound < exact), default=0.0)
    high = min((bound for bound in BOUNDS if bound >= exact), default=BOUNDS[-1])
    assert min(low, BOUNDS[-1]) - 1e-9 <= found <= high + 1e-9
    further = between.quantile(max(share, other), "h")
    assert further is not None
    assert further >= found - 1e-9


def test_a_quantile_is_that_of_the_interval_alone() -> None:
    slow = histogram([4.0] * 100)
    between = Between(Scrape.of(slow, 1), Scrape.of(histogram([4.0] * 100 + [0.05] * 10), 2))
    assert between.quantile(0.95, "h") == pytest.approx(0.095)


def test_what_lies_above_every_bound_counts_as_the_last() -> None:
    assert quantile(0.5, {0.1: 0, 1.0: 0, math.inf: 4}) == 1.0
    assert quantile(0.5, {}) is None
    assert quantile(0.5, {0.1: 0, math.inf: 0}) is None
