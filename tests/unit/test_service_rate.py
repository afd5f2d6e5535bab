"""How many requests an engine ends per second while others wait, and when a refused one should come again."""

from __future__ import annotations

import pytest

from deployments.service_rate import ServiceRate
from tests.unit.turns_requests import Clock


def test_the_service_rate_is_a_mean_of_the_time_in_which_others_waited() -> None:
    clock = Clock()
    rate = ServiceRate(clock, memory_s=10)
    rate.ended()
    assert rate.per_s() == 0
    rate.busy(True)
    for _ in range(100):
        clock.now += 0.25
        rate.ended()
    assert rate.per_s() == pytest.approx(4, rel=0.05)
    rate.busy(False)
    clock.now += 1000
    rate.ended()
    assert rate.per_s() == pytest.approx(4, rel=0.05)
    rate.busy(True)
    for _ in range(100):
        clock.now += 1
        rate.ended()
    assert rate.per_s() == pytest.approx(1, rel=0.06)


def test_the_newest_times_count_most() -> None:
    clock = Clock()
    rate = ServiceRate(clock, memory_s=10)
    rate.busy(True)
    for step in [1.0] * 100 + [0.1] * 100:
        clock.now += step
        rate.ended()
    assert 5 < rate.per_s() < 8


@pytest.mark.parametrize(("position", "seconds"), [(1, 1), (3, 2), (5, 3), (39, 20), (500, 60)])
def test_retry_after_is_rounded_up_and_bounded(position: int, seconds: int) -> None:
    clock = Clock()
    rate = ServiceRate(clock, memory_s=1e9)
    assert rate.retry_after_s(position) == 1
    rate.busy(True)
    for _ in range(8):
        clock.now += 0.5
        rate.ended()
    assert rate.retry_after_s(position) == seconds
