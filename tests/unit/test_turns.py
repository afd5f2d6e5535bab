"""Turns before the engine: bounded, fair, work-conserving up to the reserve, and nobody is lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import DeadlineExceeded, Overloaded, Unavailable
from deployments.principal import ANYBODY, Principal
from deployments.turns import KeyCount, ServiceRate, Turn, Turns, default_reserve
from tests.unit.load_scaling_fakes import in_virtual_time, now

FLOOD, QUIET, THIRD = Principal("flood"), Principal("quiet"), Principal("third")


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Request:
    """One that stays inside until it is told to end. ended: what became of it."""

    def __init__(self, turns: Turns, principal: Principal, cost: float = 10, deadline: float | None = None) -> None:
        self.turn: Turn = turns.turn(principal, cost, deadline)
        self.principal = principal
        self.inside = False
        self._end = asyncio.Event()
        self.outcomes: list[str] = []
        self.error: Exception | None = None
        self.task = asyncio.create_task(self._run())
        self.task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self.outcomes.append("cancelled")

    async def _run(self) -> None:
        try:
            async with self.turn:
                self.inside = True
                self.outcomes.append("entered")
                try:
                    await self._end.wait()
                finally:
                    self.inside = False
        except asyncio.CancelledError:
            if not self.outcomes:
                raise
        except (Overloaded, DeadlineExceeded, Unavailable) as error:
            self.error = error
            self.outcomes.append(type(error).__name__)

    async def end(self) -> None:
        self._end.set()
        await settle()

    async def cancel(self) -> None:
        self.task.cancel()
        await settle()


async def asked(
    turns: Turns, principal: Principal, number: int, cost: float = 10, deadline: float | None = None
) -> list[Request]:
    requests = [Request(turns, principal, cost, deadline) for _ in range(number)]
    await settle()
    return requests


async def all_ended(*requests: list[Request]) -> None:
    for request in chain(*requests):
        request.task.cancel()
    await settle()


def inside(requests: list[Request]) -> int:
    return sum(request.inside for request in requests)


def test_nothing_suspends_while_there_is_room() -> None:
    turns = Turns(2, 0)

    async def ask() -> int:
        async with turns.turn(FLOOD, 10, deadline=1e12), turns.turn(QUIET, 10):
            return turns.inside

    with pytest.raises(StopIteration) as answer:
        ask().send(None)  # no event loop
    assert answer.value.value == 2
    assert turns.inside == 0


async def test_as_many_as_the_engine_runs_are_inside_and_one_that_ends_lets_the_next_in() -> None:
    turns = Turns(4, 10)
    requests = await asked(turns, FLOOD, 6)
    assert [request.inside for request in requests] == [True] * 4 + [False] * 2
    assert (turns.inside, turns.waiting) == (4, 2)
    await requests[1].end()
    assert [request.inside for request in requests[4:]] == [True, False]
    assert (turns.inside, turns.waiting) == (4, 1)
    await all_ended(requests)
    assert (turns.inside, turns.waiting) == (0, 0)


async def test_a_key_alone_leaves_the_reserve_free_and_one_that_comes_enters_at_once() -> None:
    turns = Turns(64, 600)
    flood = await asked(turns, FLOOD, 556)
    assert (inside(flood), turns.waiting) == (56, 500)
    quiet = await asked(turns, QUIET, 9)
    assert [request.inside for request in quiet] == [True] * 8 + [False]  # more than the reserve at once
    assert inside(flood) == 56
    await flood[0].end()
    assert all(request.inside for request in quiet)  # the next is its own
    for request in flood[1:9]:
        await request.end()
    assert inside(flood) == 47  # room for the next such request comes first
    assert (await asked(turns, THIRD, 1))[0].inside
    await all_ended(flood, quiet)


async def test_one_that_comes_to_a_full_engine_is_next() -> None:
    turns = Turns(4, 600)
    flood = await asked(turns, FLOOD, 504)
    quiet = await asked(turns, QUIET, 2)
    assert not quiet[0].inside
    await flood[0].end()
    assert quiet[0].inside
    await flood[1].end()
    await flood[2].end()
    assert quiet[1].inside
    await all_ended(flood, quiet)


async def test_without_keys_all_places_are_used() -> None:
    turns = Turns(16, 100)
    requests = await asked(turns, ANYBODY, 30)
    assert (turns.inside, turns.waiting) == (16, 14)
    assert {request.turn.priority for request in requests[:16]} == {0}
    await all_ended(requests)


async def test_many_quiet_keys_use_all_places() -> None:
    turns = Turns(16, 100)
    requests = [Request(turns, Principal(str(number))) for number in range(30)]
    await settle()
    assert inside(requests) == 16
    await all_ended(requests)


@pytest.mark.parametrize("flooding", [2, 5, 9])
async def test_more_than_one_flood_leaves_places_free_too(flooding: int) -> None:
    turns = Turns(64, 4000)
    floods = [await asked(turns, Principal(str(number)), 150) for number in range(flooding)]
    chance = random.Random(1)
    for _ in range(180):
        await chance.choice([request for request in chain(*floods) if request.inside]).end()
    assert 56 <= turns.inside <= 60  # one that has less than its share for a moment may take of the reserve
    assert (await asked(turns, QUIET, 1))[0].inside
    await all_ended(*floods)


async def test_a_quiet_key_of_the_group_that_floods_gets_half_of_the_reserve() -> None:
    turns = Turns(64, 600)
    flood = await asked(turns, Principal("loud", "lab"), 100)
    quiet = await asked(turns, Principal("quiet", "lab"), 6)
    assert inside(quiet) == 4
    other = await asked(turns, Principal("other", "office"), 4)
    assert inside(other) == 4
    assert [quiet[0].turn.priority, other[0].turn.priority] == [1, 0]
    await all_ended(flood, quiet, other)


async def test_the_priority_is_higher_for_those_over_their_share() -> None:
    turns = Turns(16, 100)
    flood = await asked(turns, FLOOD, 20)
    assert [request.turn.priority for request in flood[:14]] == [0] * 8 + [2] * 6
    quiet = await asked(turns, QUIET, 1)
    assert quiet[0].turn.priority == 0
    await all_ended(flood, quiet)


def test_the_reserve() -> None:
    assert [default_reserve(sequences) for sequences in (1, 7, 8, 16, 64, 256)] == [0, 0, 1, 2, 8, 32]


async def test_more_than_may_wait_are_refused() -> None:
    turns = Turns(1, 2)
    requests = await asked(turns, FLOOD, 5)
    assert [request.outcomes for request in requests] == [["entered"], [], [], ["Overloaded"], ["Overloaded"]]
    assert "queue of 2 requests is full" in str(requests[3].error)
    assert turns.snapshot().refused == 2
    await all_ended(requests)


async def test_nobody_waits_where_nobody_may() -> None:
    turns = Turns(1, 0)
    requests = await asked(turns, FLOOD, 2)
    assert [request.outcomes for request in requests] == [["entered"], ["Overloaded"]]
    await requests[0].end()
    assert (await asked(turns, FLOOD, 1))[0].inside


async def test_a_flood_does_not_fill_the_queue_against_others() -> None:
    turns = Turns(1, 10)
    flood = await asked(turns, FLOOD, 11)
    quiet = await asked(turns, QUIET, 7)
    assert [request.outcomes for request in flood[6:]] == [["Overloaded"]] * 5  # its newest
    assert [request.outcomes for request in quiet] == [[]] * 5 + [["Overloaded"]] * 2
    assert turns.waiting == 10
    await flood[0].end()
    assert quiet[0].inside
    await all_ended(flood, quiet)


async def test_a_promised_turn_is_not_taken_back() -> None:
    turns = Turns(1, 1)
    flood = await asked(turns, FLOOD, 2)
    flood[0].task.cancel()
    await asyncio.sleep(0)  # its place is the second's now, which has not run yet
    more = [Request(turns, QUIET), Request(turns, THIRD)]
    await settle()
    assert flood[1].inside
    assert sorted(request.outcomes for request in more) == [[], ["Overloaded"]]
    await all_ended(flood, more)


async def test_retry_after_is_the_time_until_it_would_be_the_keys_turn() -> None:
    clock = Clock()
    turns = Turns(2, 20, clock)
    flood = await asked(turns, FLOOD, 23)
    assert isinstance(flood[-1].error, Overloaded)
    assert flood[-1].error.retry_after_s == 1  # nothing was measured yet
    for request in flood[:10]:
        clock.now += 1
        await request.end()
    others = await asked(turns, FLOOD, 11)
    assert isinstance(others[-1].error, Overloaded)
    assert others[-1].error.retry_after_s == 21  # the 21st, at one a second
    quiet = await asked(turns, QUIET, 1)
    assert isinstance(others[9].error, Overloaded)  # made room
    assert others[9].error.retry_after_s == 21
    await all_ended(flood, others, quiet)


async def test_a_queue_that_nobody_leaves_is_worth_no_quick_retry() -> None:
    clock = Clock()
    turns = Turns(1, 3, clock)
    flood = await asked(turns, FLOOD, 4)
    clock.now += 10
    more = await asked(turns, FLOOD, 1)
    assert isinstance(more[0].error, Overloaded)
    assert 30 <= more[0].error.retry_after_s <= 60
    await all_ended(flood)


async def test_a_deadline_that_has_passed_is_refused_at_once() -> None:
    clock = Clock()
    turns = Turns(4, 10, clock)
    late = await asked(turns, FLOOD, 1, deadline=clock.now)
    assert late[0].outcomes == ["DeadlineExceeded"]
    assert turns.snapshot().expired == 1
    assert turns.inside == 0


async def test_who_waits_past_the_deadline_never_enters() -> None:
    clock = Clock()
    turns = Turns(1, 10, clock)
    first = await asked(turns, FLOOD, 1)
    late = await asked(turns, FLOOD, 2, deadline=clock.now + 5)
    patient = await asked(turns, FLOOD, 1)
    clock.now += 5
    await first[0].end()  # the timer has not run: nothing but the clock says so
    assert [request.outcomes for request in late] == [["DeadlineExceeded"]] * 2
    assert patient[0].inside
    await all_ended(patient)


def test_the_timer_ends_each_at_its_deadline() -> None:
    ended: dict[float, float] = {}

    async def wait(turns: Turns, deadline: float) -> None:
        with pytest.raises(DeadlineExceeded):
            async with turns.turn(QUIET, 10, deadline):
                pass
        ended[deadline] = now()

    async def run() -> None:
        turns = Turns(1, 10, now)
        async with turns.turn(FLOOD, 10):
            async with asyncio.TaskGroup() as group:
                for deadline in (3.0, 1.0, 2.0, 2.0):
                    group.create_task(wait(turns, deadline))
            gone = asyncio.create_task(wait(turns, 5.0))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.sleep(10)  # its timer rings for nobody
            await wait(turns, 20.0)
            assert turns.waiting == 0

    in_virtual_time(run)
    assert list(ended) == [1.0, 2.0, 3.0, 20.0]
    assert all(0 <= at - deadline < 0.01 for deadline, at in ended.items())


def test_a_clock_behind_the_loops_ends_nobody_early() -> None:
    async def run() -> float:
        turns = Turns(1, 10, lambda: 0.5 * now())
        async with turns.turn(FLOOD, 10):
            with pytest.raises(DeadlineExceeded):
                async with turns.turn(QUIET, 10, deadline=8.0):
                    pass
            return now()

    assert 16 <= in_virtual_time(run) < 16.1


async def test_one_that_is_cancelled_while_it_waits_leaves_its_place_in_the_queue() -> None:
    turns = Turns(1, 2)
    requests = await asked(turns, FLOOD, 3)
    await requests[1].cancel()
    assert (turns.inside, turns.waiting) == (1, 1)
    more = await asked(turns, FLOOD, 1)
    assert more[0].outcomes == []
    await requests[0].end()
    assert requests[2].inside
    await all_ended(requests, more)
    assert (turns.inside, turns.waiting) == (0, 0)


async def test_one_that_is_cancelled_with_its_turn_promised_gives_it_on() -> None:
    turns = Turns(1, 5)
    requests = await asked(turns, FLOOD, 3)
    requests[0].task.cancel()
    await asyncio.sleep(0)
    assert requests[1].turn.began
    assert not requests[1].inside
    await requests[1].cancel()
    assert requests[1].outcomes == ["cancelled"]
    assert requests[2].inside
    await all_ended(requests)
    assert (turns.inside, turns.waiting) == (0, 0)


async def test_a_turn_that_was_given_on_costs_its_key_nothing() -> None:
    turns = Turns(1, 5)
    first = await asked(turns, THIRD, 1)
    given_on = await asked(turns, FLOOD, 1, cost=10_000)
    others = [await asked(turns, QUIET, 2), await asked(turns, FLOOD, 1)]
    first[0].task.cancel()
    await asyncio.sleep(0)
    assert given_on[0].turn.began
    await given_on[0].cancel()
    assert others[1][0].inside
    await all_ended(*others)


async def test_a_turn_is_not_promised_to_one_that_was_cancelled_in_that_moment() -> None:
    turns = Turns(1, 5)
    requests = await asked(turns, FLOOD, 3)
    requests[1].task.cancel()
    requests[0].task.cancel()
    await settle()
    assert requests[1].outcomes == ["cancelled"]
    assert requests[2].inside
    await all_ended(requests)


async def test_one_that_is_refused_and_cancelled_in_one_moment_is_gone() -> None:
    turns = Turns(1, 1)
    flood = await asked(turns, FLOOD, 2)
    quiet = Request(turns, QUIET)
    await asyncio.sleep(0)
    await flood[1].cancel()
    assert (turns.inside, turns.waiting) == (1, 1)
    await all_ended(flood, [quiet])
    assert (turns.inside, turns.waiting) == (0, 0)


async def test_a_failing_request_leaves() -> None:
    turns = Turns(1, 1)
    with pytest.raises(ZeroDivisionError):
        async with turns.turn(FLOOD, 1):
            raise ZeroDivisionError
    assert turns.inside == 0


async def test_a_coroutine_that_is_closed_while_it_waits_leaves() -> None:
    turns = Turns(1, 5)
    held = await asked(turns, FLOOD, 1)
    waiting = turns.enter(turns.turn(QUIET, 1))
    waiting.send(None)
    assert turns.waiting == 1
    waiting.close()
    assert turns.waiting == 0
    await all_ended(held)


async def test_what_was_really_used_counts() -> None:
    turns = Turns(1, 100)
    hog, modest = Principal("hog"), Principal("modest")
    requests = {each: await asked(turns, each, 40, cost=100) for each in (hog, modest)}
    began: list[Principal] = []
    for _ in range(30):
        request = next(each for each in chain(*requests.values()) if each.inside)
        began.append(request.principal)
        request.turn.used(200)
        request.turn.used(900 if request.principal is hog else 100)  # told again
        await request.end()
    assert 26 <= Counter(began)[modest] <= 28
    await all_ended(*requests.values())


async def test_the_snapshot_tells_who_waits_and_how_long_one_waited() -> None:
    clock = Clock()
    turns = Turns(2, 5, clock)
    requests = await asked(turns, Principal("a", "lab"), 2)
    waiting = await asked(turns, QUIET, 1)
    clock.now += 3
    await requests[0].end()
    shot = turns.snapshot()
    assert set(shot.keys) == {KeyCount("lab", "a", 1, 0), KeyCount("", "quiet", 1, 0)}
    assert (shot.inside, shot.waiting, shot.began, shot.refused, shot.expired) == (2, 0, 3, 0, 0)
    assert shot.waited_s == 3
    assert shot.mean_wait_s == turns.mean_wait_s == 1
    assert shot.per_s == pytest.approx(1 / 3, rel=0.1)
    await all_ended(requests, waiting)
    assert turns.snapshot().keys == ()


async def test_the_mean_wait_is_that_of_the_last_requests() -> None:
    clock = Clock()
    turns = Turns(1, 5, clock)
    for _ in range(200):
        first, second = (await asked(turns, FLOOD, 1))[0], (await asked(turns, FLOOD, 1))[0]
        clock.now += 2
        await first.end()
        await second.end()
    for _ in range(200):
        await (await asked(turns, FLOOD, 1))[0].end()
    assert turns.mean_wait_s < 0.01


async def test_draining_takes_nobody_new_and_waits_for_the_last() -> None:
    turns = Turns(1, 5)
    requests = await asked(turns, FLOOD, 2)
    drained = asyncio.create_task(turns.drain())
    await settle()
    late = await asked(turns, QUIET, 1)
    assert late[0].outcomes == ["Unavailable"]
    await requests[0].end()
    assert requests[1].inside
    assert not drained.done()
    await requests[1].end()
    assert drained.done()
    await turns.drain()


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


WARM_S = 50
"""Who came first had an idle engine; shares are counted from then on."""


@dataclass
class Law:
    """How the requests of a key are: how often they come, what they are charged, and how long the engine has them."""

    principal: Principal
    cost: float
    work_s: float
    gap_s: float = 0.0
    users: int = 1
    waits_s: list[float] = field(default_factory=list)
    done: int = 0
    tokens: float = 0.0


async def _use(turns: Turns, law: Law, chance: random.Random, until_s: float) -> None:
    while now() < until_s:
        if law.gap_s:
            await asyncio.sleep(chance.expovariate(1 / law.gap_s))
        asked_at = now()
        async with turns.turn(law.principal, law.cost):
            law.waits_s.append(now() - asked_at)
            law.tokens += law.cost if WARM_S <= now() < until_s else 0
            await asyncio.sleep(law.work_s * chance.uniform(0.5, 1.5))
        law.done += 1


def simulated(laws: list[Law], sequences: int, until_s: float, reserve: int | None = None) -> list[Law]:
    chance = random.Random(1)

    async def run() -> None:
        turns = Turns(sequences, 10_000, now, reserve)
        async with asyncio.TaskGroup() as group:
            for law in laws:
                for _ in range(law.users):
                    group.create_task(_use(turns, law, chance, until_s))

    in_virtual_time(run)
    return laws


def test_a_quiet_key_does_not_notice_a_flood() -> None:
    flood, quiet = simulated(
        [Law(FLOOD, 500, 10, users=500), Law(QUIET, 300, 5, gap_s=4, users=4)], sequences=64, until_s=600
    )
    assert quiet.done > 200
    assert sum(wait == 0 for wait in quiet.waits_s) > 0.98 * len(quiet.waits_s)
    assert max(quiet.waits_s) < 2  # 56 places of 10 s each: one is free every fifth of a second
    assert flood.done > 3000


def test_quiet_keys_are_not_slower_because_the_flood_is_many_keys_of_a_group() -> None:
    lab = [Law(Principal(str(number), "lab"), 500, 10, users=20) for number in range(20)]
    *_, quiet = simulated([*lab, Law(QUIET, 300, 5, gap_s=4, users=4)], sequences=64, until_s=300)
    assert sum(wait == 0 for wait in quiet.waits_s) > 0.98 * len(quiet.waits_s)


@pytest.mark.parametrize("weight", [1, 3])
@pytest.mark.parametrize(("cost", "work_s"), [(100, 1), (1000, 1), (100, 8), (1000, 8)])
def test_shares_are_of_tokens_whatever_a_request_costs_and_takes(weight: int, cost: float, work_s: float) -> None:
    one, other = simulated(
        [Law(FLOOD, 200, 2, users=60), Law(Principal("heavy", weight=weight), cost, work_s, users=60)], 16, until_s=400
    )
    ahead = default_reserve(16) + 2
    assert abs(one.tokens - other.tokens / weight) <= ahead * (200 + cost / weight)


def test_ten_keys_of_a_group_get_what_one_key_of_another_gets() -> None:
    lab = [Law(Principal(str(number), "lab"), 100, 1, users=20) for number in range(10)]
    *group, alone = simulated([*lab, Law(FLOOD, 100, 1, users=60)], sequences=16, until_s=100)
    assert alone.tokens == pytest.approx(sum(law.tokens for law in group), rel=0.05)
    assert max(law.tokens for law in group) <= 1.1 * min(law.tokens for law in group)


KEYS = [ANYBODY, FLOOD, replace(QUIET, weight=5), Principal("c", "lab"), Principal("d", "lab", group_weight=2)]
Operation = tuple[str, int, int]
operations = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "end", "cancel", "wait", "go on"]), st.integers(0, 99), st.integers(0, 30)
    ),
    max_size=70,
)


@settings(max_examples=150, deadline=None)
@given(operations, st.integers(1, 12), st.integers(0, 6), st.integers(0, 3))
def test_whatever_happens_nobody_is_lost_and_nothing_overflows(
    steps: list[Operation], sequences: int, most_waiting: int, reserve: int
) -> None:
    asyncio.run(_anything(steps, sequences, most_waiting, reserve))


async def _anything(steps: list[Operation], sequences: int, most_waiting: int, reserve: int) -> None:
    clock = Clock(0)
    turns = Turns(sequences, most_waiting, clock, reserve)
    requests: list[Request] = []
    for operation, which, number in steps:
        await _operate(turns, clock, requests, operation, which, number)
        assert inside(requests) <= turns.inside <= sequences
        assert turns.waiting <= most_waiting
    await settle()
    assert inside(requests) == turns.inside
    assert turns.waiting == sum(not request.outcomes for request in requests)
    assert turns.waiting == 0 or turns.inside >= max(1, sequences - reserve)
    await _all_end(turns, clock, requests)


async def _operate(
    turns: Turns, clock: Clock, requests: list[Request], operation: str, which: int, number: int
) -> None:
    if operation == "ask":
        deadline = clock.now + number - 1 if which % 3 == 0 else None
        requests.append(Request(turns, KEYS[which % len(KEYS)], 10 * number, deadline))
    elif operation == "end" and (there := [request for request in requests if request.inside]):
        there[which % len(there)].turn.used(7 * number)
        there[which % len(there)]._end.set()
    elif operation == "cancel" and requests:
        requests[which % len(requests)].task.cancel()
    elif operation == "wait":
        await settle()
        clock.now += number / 3
        turns.expire()
        await settle()
        _assert_none_is_late(requests, clock)
    elif operation == "go on":
        await asyncio.sleep(0)


def _assert_none_is_late(requests: list[Request], clock: Clock) -> None:
    for request in requests:
        assert request.outcomes or request.turn.deadline > clock.now


async def _all_end(turns: Turns, clock: Clock, requests: list[Request]) -> None:
    for _ in requests:
        for request in requests:
            if request.inside:
                request._end.set()
        await settle()
    assert (turns.inside, turns.waiting) == (0, 0)
    assert turns.snapshot().keys == ()
    assert all(request.task.done() and len(request.outcomes) == 1 for request in requests)
    became = Counter(request.outcomes[0] for request in requests)
    shot = turns.snapshot()
    assert (shot.refused, shot.expired) == (became["Overloaded"], became["DeadlineExceeded"])
    assert became["entered"] <= shot.began <= became["entered"] + became["cancelled"]


async def test_beside_a_quiet_key_a_flood_keeps_a_part_of_the_places() -> None:
    """New ones of the flood wait until no more than its part are inside, and all of it comes back some time later."""
    clock = [0.0]
    turns = Turns(16, 100, lambda: clock[0], reserve=2, beside_quiet=0.25)
    flood = [turns.turn(FLOOD, 10) for _ in range(30)]
    waiting = [asyncio.create_task(turns.enter(turn)) for turn in flood]
    await asyncio.sleep(0)
    assert turns.inside == 14
    asking = turns.turn(QUIET, 10)
    await turns.enter(asking)
    for turn in [turn for turn in flood if turn.began][:12]:
        turns.leave(turn)
    await asyncio.sleep(0)
    assert turns.inside == 1 + 4  # a quarter of 14, rounded up
    turns.leave(asking)
    for _ in range(2):
        clock[0] += 1.01
        turns.leave(next(turn for turn in flood if turn.began and turn not in flood[:12]))
        flood = [turn for turn in flood if not turn.began] + [turn for turn in flood if turn.began]
        await asyncio.sleep(0)
    assert turns.inside == 14
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
