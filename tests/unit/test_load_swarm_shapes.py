from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from loadtests.swarm.errors import OptionError
from loadtests.swarm.ramp import Ramp, Window
from loadtests.swarm.shape_text import shape_of
from loadtests.swarm.shapes import Shape, levels_of


def course(shape: Shape, until_s: int, goodput: Callable[[int], float] = lambda users: 0.0) -> list[int]:
    """The users of each second of a virtual clock, until the shape ends; `goodput`: of so many users, per second."""
    users, good = 0, 0.0
    seen: list[int] = []
    for second in range(until_s):
        wanted = shape.at(float(second), int(good))
        if wanted is None:
            return seen
        users = wanted[0]
        seen.append(users)
        good += goodput(users)
    return seen


def made(text: str) -> Shape:
    shape = shape_of(text)
    assert shape is not None
    return shape


def ramp(text: str) -> Ramp:
    shape = made(text)
    assert isinstance(shape, Ramp)
    return shape


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((1, 64, 2.0, 0), [1, 2, 4, 8, 16, 32, 64]),
        ((1, 100, 2.0, 0), [1, 2, 4, 8, 16, 32, 64, 100]),
        ((2, 20, 2.0, 8), [2, 10, 18, 20]),
        ((1, 5, 1.1, 0), [1, 2, 3, 4, 5]),
        ((10, 20, 1.5, 0), [10, 15, 20]),
        ((7, 7, 2.0, 0), [7]),
    ],
)
def test_levels_rise_to_the_last(levels: tuple[int, int, float, int], expected: list[int]) -> None:
    assert levels_of(*levels) == expected


def test_none_is_no_shape() -> None:
    assert shape_of("none") is None


def test_steps_hold_each_level() -> None:
    assert course(made("steps:first=1,last=4,hold=3"), 99) == [1, 1, 1, 2, 2, 2, 4, 4, 4]


def test_a_spike_comes_and_goes() -> None:
    assert course(made("spike:base=1,peak=9,before=2,hold=3,after=1"), 99) == [1, 1, 9, 9, 9, 1]


def test_a_soak_rises_slowly_and_stays() -> None:
    shape = made("soak:users=30,rise=60s,hold=1m")
    assert shape.at(0, 0) == (30, 0.5)
    assert len(course(shape, 999)) == 120


def test_seconds_have_units_and_numbers_of_users_have_not() -> None:
    assert len(course(made("steps:last=1,hold=1h"), 9999)) == 3600
    with pytest.raises(OptionError, match="'2m' is no number"):
        shape_of("steps:times=2m")


def test_a_window_forgets_what_is_old() -> None:
    window = Window(10)
    assert window.per_second == 0
    for second in range(101):
        window.saw(second, second * 5 if second <= 80 else 400 + (second - 80) * 2)
    assert window.per_second == pytest.approx(2)


def test_a_ramp_ends_after_two_steps_below_the_best() -> None:
    served = {1: 10.0, 2: 20.0, 4: 40.0, 8: 30.0, 16: 20.0, 32: 90.0}
    shape = ramp("ramp:first=1,last=32,hold=10,settle=4")
    seen = course(shape, 999, served.__getitem__)
    assert seen == [1] * 10 + [2] * 10 + [4] * 10 + [8] * 10 + [16] * 10
    assert [(step.users, step.goodput) for step in shape.steps] == [(1, 10), (2, 20), (4, 40), (8, 30), (16, 20)]
    assert shape.verdict.startswith("best goodput 40.00/s at 4 users; it was below 90% of that for 2 steps; 1 users 10")


def test_one_bad_step_is_not_the_end() -> None:
    served = {1: 10.0, 2: 5.0, 4: 12.0, 8: 11.0}
    shape = ramp("ramp:last=8,hold=5,settle=1")
    course(shape, 999, served.__getitem__)
    assert len(shape.steps) == 4
    assert "best goodput 12.00/s at 4 users; it did not fall" in shape.verdict


def test_two_steps_that_are_only_a_little_below_the_best_are_no_fall() -> None:
    shape = ramp("ramp:last=8,hold=5,settle=1")
    course(shape, 999, lambda users: 100.0 - users)
    assert len(shape.steps) == 4


def test_the_settling_of_a_step_does_not_count() -> None:
    shape, now, good = ramp("ramp:last=1,hold=10,settle=6"), 0.0, 0
    while shape.at(now, good) is not None:
        good += 100 if now < 6 else 3
        now += 1
    assert shape.steps[0].goodput == 3


def test_a_ramp_of_an_endpoint_that_serves_nothing_ends_soon() -> None:
    shape = ramp("ramp:hold=5,settle=1")
    assert len(course(shape, 999)) == 10
    assert "no request kept the limits" in shape.verdict


def test_a_late_clock_does_not_skip_a_step() -> None:
    """Locust asks when it has started the users of the step before, which may take a while."""
    shape, seen = ramp("ramp:last=4,hold=10,settle=2"), []
    for now in (0.0, 14.0, 29.0, 41.0):
        wanted = shape.at(now, int(now))
        seen.append(wanted and wanted[0])
    assert seen == [1, 2, 4, None]
    assert [step.goodput for step in shape.steps] == [1, 1, 1]


def test_a_ramp_that_was_ended_says_what_it_found() -> None:
    shape = ramp("ramp:hold=9")
    assert shape.verdict == "the load ended before the first step of the ramp did"
    course(shape, 15, lambda users: users)
    assert "the load ended before it fell" in shape.verdict


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("waves", "'waves' is no shape; there are steps, spike, soak, ramp and none"),
        ("", "'' is no shape"),
        ("none:hold=3", "'none' is no shape"),
        ("steps:height=3", "'height=3' is nothing it takes; it has first, last, times, add, hold, rate"),
        ("steps:hold", "'hold' is nothing it takes"),
        ("steps:first=0", "first=0 has to be above 0"),
        ("steps:first=9,last=3", "last=3 is below first=9"),
        ("steps:first=1.5", "'1.5' is no whole number"),
        ("steps:times=1", "times=1 does not rise"),
        ("steps:first=2,times=1e308,last=64", "shape steps: times: '1e308' is no number from 0 to 1e+06"),
        ("ramp:times=1e308", "shape ramp: times: '1e308' is no number from 0 to 1e+06"),
        ("steps:last=20000,add=1", "more than 10000 steps"),
        ("steps:hold=soon", "hold: 'soon' is no number"),
        ("steps:hold=-3", "is no number from 0"),
        ("steps:rate=0", "rate=0 has to be above 0"),
        ("spike:peak=1", "peak=1 is not above base=1"),
        ("soak:users=0", "users=0 has to be above 0"),
        ("soak:users=9999999", "is no number from 0 to 1e+06"),
        ("ramp:hold=5,settle=5", "settle=5 leaves nothing of hold=5"),
    ],
)
def test_a_shape_that_is_none_says_why(text: str, said: str) -> None:
    with pytest.raises(OptionError, match=re.escape(said)):
        shape_of(text)
