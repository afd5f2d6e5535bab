"""Turns: the queue before the engine is bounded, and who is refused, late or gives up leaves it."""

from __future__ import annotations

import asyncio

import pytest

from deployments.errors import DeadlineExceeded, Overloaded
from deployments.turns import Turns
from tests.unit.load_scaling_fakes import in_virtual_time, now
from tests.unit.turns_requests import FLOOD, QUIET, THIRD, Clock, Request, all_ended, asked, settle


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
    assert [request.outcomes for request in flood[7:]] == [["Overloaded"]] * 4  # its newest
    assert [request.outcomes for request in quiet] == [[]] * 4 + [["Overloaded"]] * 3  # at once: it has enough
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


async def test_a_coroutine_that_is_closed_while_it_waits_leaves() -> None:
    turns = Turns(1, 5)
    held = await asked(turns, FLOOD, 1)
    waiting = turns.enter(turns.turn(QUIET, 1))
    waiting.send(None)
    assert turns.waiting == 1
    waiting.close()
    assert turns.waiting == 0
    await all_ended(held)
