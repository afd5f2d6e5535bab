"""Intervals and tests against values that are known from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from app.evaluation.statistics import Interval, mcnemar, paired_bootstrap, wilson


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_the_textbooks(hits: int, count: int, low: float, high: float) -> None:
    interval = wilson(hits, count)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 0) == Interval(0, 1)
    assert all(wilson(0, count).low == 0 and wilson(count, count).high == 1 for count in range(1, 700))
    assert wilson(20, 20).low == pytest.approx(1 - wilson(0, 20).high)


def test_the_bootstrap_is_the_same_each_time_and_near_the_normal_interval() -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.random(600) < 0.9).astype(float), (rng.random(600) < 0.8).astype(float)
    interval = paired_bootstrap(first, second, seed=5)
    assert interval == paired_bootstrap(first, second, seed=5)
    assert interval != paired_bootstrap(first, second, seed=6)
    difference = first - second
    margin = 1.96 * difference.std() / 600**0.5
    assert interval.low == pytest.approx(difference.mean() - margin, abs=0.004)
    assert interval.high == pytest.approx(difference.mean() + margin, abs=0.004)


def test_the_same_outcomes_differ_by_nothing() -> None:
    hits = np.array([1.0, 0.0, 1.0, 1.0])
    mixed = 0.9 * hits + 0.1 * hits
    assert paired_bootstrap(mixed, hits) == Interval(0, 0)
    assert not paired_bootstrap(mixed, hits).excludes_zero
    assert paired_bootstrap(np.array([]), np.array([])) == Interval(-1, 1)


def test_mcnemar_counts_only_what_differs() -> None:
    first = [True] * 10 + [False] * 2 + [True] * 50
    second = [False] * 10 + [True] * 2 + [True] * 50
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar(first, first) == 1
    assert mcnemar([True] * 2000, [False] * 2000) == pytest.approx(0, abs=1e-300)
