"""Intervals against values worked out by hand, and against how often they hold what they should."""

from __future__ import annotations

from random import Random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.records import Interval
from loadtests.sweep.intervals import change_of, difference_of, interval_of, paired_difference_of, ratio_of, student


def parts(found: Interval | None) -> tuple[float, float, float, int]:
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return found.value, found.low, found.high, found.repeats


def test_a_mean_of_three_has_students_interval() -> None:
    margin = 4.303 / 3**0.5
    assert parts(interval_of([10, 11, 12])) == pytest.approx((11, 11 - margin, 11 + margin, 3))


def test_one_repeat_has_no_bounds_and_none_no_interval() -> None:
    assert interval_of([7]) == Interval(value=7)
    assert interval_of([]) is None
    assert interval_of([None, None]) is None


def test_a_repeat_without_the_figure_is_left_out_and_counted_so() -> None:
    found = interval_of([4, None, 6])
    assert found is not None
    assert (found.value, found.repeats) == (5, 2)


def test_what_cannot_be_negative_has_no_negative_bound() -> None:
    assert parts(interval_of([0.0, 1.0])) == pytest.approx((0.5, 0, 0.5 + 12.706 / 2, 2))
    assert interval_of([0.0, 0.0, 0.0]) == Interval(value=0, low=0, high=0, repeats=3)


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.706), (2.9, 4.303), (30, 2.042), (40, 2.021), (120, 1.980)])
def test_students_t_is_the_tables(freedom: float, t: float) -> None:
    assert student(freedom) == pytest.approx(t, abs=3e-3)


def test_a_ratio_is_the_median_of_the_pairs() -> None:
    margin = 4.303 * (1 / 3) ** 0.5 / 3**0.5
    assert parts(ratio_of([2, 4, 12], [1, 2, 4])) == pytest.approx((2, 7 / 3 - margin, 7 / 3 + margin, 3))


def test_six_pairs_have_their_whole_range_and_one_disturbed_of_nine_is_left_out() -> None:
    assert ratio_of([1, 2, 3, 4, 5, 6], [1] * 6) == Interval(value=3.5, low=1, high=6, repeats=6)
    found = ratio_of([1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 50], [1] * 9)
    assert found == Interval(value=1.04, low=1.01, high=1.07, repeats=9)


def test_a_pair_without_a_ratio_is_left_out() -> None:
    assert ratio_of([3, None, 5, 6], [1, 1, None, 0]) == Interval(value=3)
    assert ratio_of([0, 0], [0, 0]) is None
    assert ratio_of([0, 0], [1, 2]) == Interval(value=0, low=0, high=0, repeats=2)


def test_a_paired_difference_is_the_median_of_the_pairs_and_may_go_below_zero() -> None:
    margin = 4.303 / 3**0.5
    assert parts(paired_difference_of([12, 23, 34], [10, 20, 30])) == pytest.approx((3, 3 - margin, 3 + margin, 3))
    wide = paired_difference_of([1, 2, 10], [1, 1, 1])
    assert wide.value == 1
    assert wide.low is not None
    assert wide.low < 0
    assert paired_difference_of([0] * 6, [0, 1, 2, 3, 4, 5]) == Interval(value=-2.5, low=-5, high=0, repeats=6)
    assert paired_difference_of([2], [0]) == Interval(value=2)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=20))
def test_an_interval_holds_its_ratio(pairs: list[tuple[float, float]]) -> None:
    pairs = [(above, below) for above, below in pairs if not below or below > 1e-3]
    found = ratio_of([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    ratios = [above / below for above, below in pairs if below]
    if not ratios:
        assert found is None
        return
    assert found is not None
    assert found.value == pytest.approx(median(ratios))
    if len(ratios) > 1:
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.value * (1 + 1e-9) + 1e-9
        assert found.value <= found.high * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("repeats", [3, 5, 7, 12])
def test_intervals_of_means_and_ratios_hold_the_truth_in_95_of_100_runs(repeats: int) -> None:
    drawn = Random(repeats)
    means = held = 0
    for _ in range(1000):
        ours = [drawn.gauss(100, 5) for _ in range(repeats)]
        other = [drawn.gauss(100, 5) for _ in range(repeats)]
        mean, ratio = interval_of(ours), ratio_of(ours, other)
        means += mean is not None and (mean.low or 0) <= 100 <= (mean.high or 0)
        held += ratio is not None and (ratio.low or 0) <= 1 <= (ratio.high or 0)
    assert 930 <= means <= 970
    assert 930 <= held <= 995


@pytest.mark.parametrize(("first", "second"), [(3, 3), (5, 3), (3, 1), (1, 4)])
def test_a_change_of_nothing_is_seen_in_one_of_twenty_runs(first: int, second: int) -> None:
    drawn = Random(first * 10 + second)
    seen = 0
    for _ in range(1000):
        found = change_of([drawn.gauss(100, 4) for _ in range(first)], [drawn.gauss(50, 2) for _ in range(second)])
        assert found is not None
        seen += not ((found.low or 0) <= -0.5 <= (found.high or 0))
    assert 10 <= seen <= 70


def test_a_change_is_relative_to_before() -> None:
    # variances 4/3 and 1.21 * 4/3 of 10,000, Welch's 3.96 degrees of freedom: t of 3
    margin = 3.182 * ((1 + 1.21) * 4 / 3 / 10_000) ** 0.5
    found = change_of([100, 102, 98], [110, 112, 108])
    assert parts(found) == pytest.approx((0.1, 0.1 - margin, 0.1 + margin, 3))


def test_single_repeats_have_no_bounds_but_one_borrows_the_others_noise() -> None:
    assert change_of([100], [200]) == Interval(value=1)
    # the one is as noisy as any of the three, in proportion: 2 % of 110
    margin = 4.303 * (1.21 * 4 + 1.21 * 4 / 3) ** 0.5 / 100
    assert parts(change_of([100, 102, 98], [110])) == pytest.approx((0.1, 0.1 - margin, 0.1 + margin, 1))


def test_there_is_no_change_relative_to_zero_but_a_difference() -> None:
    assert change_of([0, 0], [1, 1]) is None
    assert parts(difference_of([0, 0, 0], [0.3, 0.3, 0.3])) == pytest.approx((0.3, 0.3, 0.3, 3))
    assert difference_of([0], [1]) == Interval(value=1)
    assert change_of([4, 4], [0, 0]) == Interval(value=-1, low=-1, high=-1, repeats=2)
