"""When requests are sent and when no more are, on a clock of its own."""

from __future__ import annotations

from itertools import pairwise

import pytest

from loadtests.client.exchange import Failure
from loadtests.client.pace import Pace, arrivals, grace_s, unanswered
from loadtests.client.questions import requests_of
from loadtests.records import Fault, Kind, Plan, Sample
from tests.unit.load_client_fakes import point


def test_the_number_of_requests() -> None:
    plan = Plan(sides=(), points=(), min_requests=16, requests_per_user=6, max_seconds=50)
    assert requests_of(point(concurrency=1), plan) == 16
    assert requests_of(point(concurrency=64), plan) == 384
    assert requests_of(point(concurrency=None, rate=2.0), plan) == 100 + 60 + 16


@pytest.mark.parametrize(("users", "each", "count"), [(1, 6, 16), (2, 6, 32), (64, 6, 1024), (2, 17, 64)])
def test_bulk_has_at_least_a_whole_call_of_every_user(users: int, each: int, count: int) -> None:
    plan = Plan(sides=(), points=(), requests_per_user=each)
    assert requests_of(point(kind=Kind.BULK, concurrency=users), plan) == count


def test_arrivals_are_poisson_from_the_seed() -> None:
    dues = arrivals(50.0, 100.0, (1, 0), 100_000)
    assert dues == arrivals(50.0, 100.0, (1, 0), 100_000)
    assert dues[:3] != arrivals(50.0, 100.0, (1, 1), 100_000)[:3]
    assert dues[0] == 0
    assert dues == sorted(dues)
    assert dues[-1] < 100
    assert abs(len(dues) / 5000 - 1) < 0.05
    between = [later - earlier for earlier, later in pairwise(dues)]
    deviation = (sum((each - 0.02) ** 2 for each in between) / len(between)) ** 0.5
    assert abs(deviation / 0.02 - 1) < 0.06


class Slow:
    """Answers after a second of its own clock. Nothing connects if `dead`."""

    silent = 0
    cut: Failure | None = None

    def __init__(self, dead: bool = False) -> None:
        self.time_s, self.fault = 0.0, Fault.CONNECTION if dead else None

    def now(self) -> float:
        return self.time_s

    async def ask_all(self, _: bytes, due_s: float | None = None) -> list[Sample]:
        began, self.time_s = self.time_s, self.time_s + 1
        return [Sample(began if due_s is None else due_s, began, self.time_s, fault=self.fault)]


async def test_nothing_begins_after_the_time_is_up() -> None:
    slow = Slow()
    pace = Pace(slow, slow.now, 5.0)
    await pace.closed([b""] * 100, 1)
    assert [each.began_s for each in pace.samples] == [0, 1, 2, 3, 4]
    assert pace.cut == 0


async def test_arrivals_that_the_client_is_late_for_are_sent_late_and_those_too_late_told() -> None:
    slow = Slow()
    pace = Pace(slow, slow.now, 5.0)
    await pace.open([b""] * 100, [0.0] * 40)
    assert (len(pace.samples), pace.unsent) == (10, 30)
    assert pace.samples[-1].began_s - pace.samples[-1].due_s == 9


@pytest.mark.parametrize("users", [1, 3])
async def test_who_never_connects_is_given_up(users: int) -> None:
    slow = Slow(dead=True)
    pace = Pace(slow, slow.now, 1e6)
    await pace.closed([b""] * 100, users)
    assert pace.gave_up
    assert 16 <= len(pace.samples) < 16 + users


def test_what_is_under_way_may_take_as_long_as_the_slowest_answer() -> None:
    """It counts as failed if it is cut off, and must not be for being as slow as others."""
    answers = [Sample(0, 0, seconds) for seconds in (1, 2, 40)]
    assert grace_s([*answers, Sample(0, 0, 90, fault=Fault.SERVER)]) == 40
    assert grace_s([]) == grace_s(answers[:2]) == 5


@pytest.mark.parametrize(
    ("samples", "dead"),
    [
        ([], False),
        ([Sample(0, 0, 1, fault=Fault.CONNECTION), Sample(0, 0, 1, fault=Fault.TIMEOUT)], True),
        ([Sample(0, 0, 1, fault=Fault.TIMEOUT), Sample(0, 0, 1, fault=Fault.OVERLOAD)], False),
        ([Sample(0, 0, 1, fault=Fault.TIMEOUT), Sample(0, 0, 1, (0.5,), fault=Fault.TIMEOUT)], False),
        ([Sample(0, 0, 1, fault=Fault.TIMEOUT), Sample(0, 0, 1, (0.5,))], False),
    ],
)
def test_an_endpoint_is_silent_where_not_even_a_refusal_or_a_text_came(samples: list[Sample], dead: bool) -> None:
    assert unanswered(samples) == dead
