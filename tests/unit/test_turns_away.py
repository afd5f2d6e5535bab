"""Whom a full queue turns away before anything is known of the request."""

from __future__ import annotations

import asyncio

import pytest

from deployments.turns import HOLDS_MS, Turns
from tests.unit.turns_requests import FLOOD, QUIET, Clock, all_ended, asked, settle


async def test_who_has_most_of_a_full_queue_is_told_at_once_when_to_come_again() -> None:
    turns = Turns(1, 2)
    flood = await asked(turns, FLOOD, 2)
    assert turns.turned_away(FLOOD) is None  # one more may wait
    flood += await asked(turns, FLOOD, 1)
    refusal = turns.turned_away(FLOOD)
    assert refusal is not None
    assert "queue of 2 requests is full" in refusal.message
    assert refusal.retry_after_s >= 1
    assert turns.turned_away(QUIET) is None
    assert (turns.inside, turns.waiting, turns.snapshot().refused) == (1, 2, 1)
    await flood[0].end()
    assert turns.turned_away(FLOOD) is None
    await all_ended(flood)


@pytest.mark.parametrize(("each_s", "holds_ms"), [(0.01, 20), (0.1, 200), (1, HOLDS_MS), (60, HOLDS_MS)])
async def test_a_refusal_holds_until_a_tenth_of_the_queue_is_served(each_s: float, holds_ms: int) -> None:
    clock = Clock()
    turns = Turns(1, 20, clock)
    flood = await asked(turns, FLOOD, 21)
    for _ in range(1000):
        clock.now += each_s
        await flood.pop(0).end()
        flood += await asked(turns, FLOOD, 1)
    refusal = turns.turned_away(FLOOD)
    assert refusal is not None
    assert refusal.holds_ms == pytest.approx(holds_ms, abs=1)
    await all_ended(flood)


async def test_a_refusal_holds_for_nobody_where_no_rate_is_known() -> None:
    turns = Turns(1, 1, Clock())
    flood = await asked(turns, FLOOD, 2)
    refusal = turns.turned_away(FLOOD)
    assert refusal is not None
    assert refusal.holds_ms == 0
    await all_ended(flood)


async def test_where_nobody_may_wait_an_engine_with_room_takes_everybody() -> None:
    turns = Turns(1, 0)
    assert turns.turned_away(FLOOD) is None
    flood = await asked(turns, FLOOD, 1)
    assert turns.turned_away(FLOOD) is None  # it is told when it asks
    await all_ended(flood)


async def test_a_place_that_is_about_to_be_free_is_not_full() -> None:
    clock = Clock()
    turns = Turns(1, 1, clock)
    flood = await asked(turns, FLOOD, 2, deadline=clock.now + 1)
    assert turns.turned_away(FLOOD) is not None
    clock.now += 2
    assert turns.turned_away(FLOOD) is None
    await all_ended(flood)


async def test_a_replica_that_stops_says_so_itself() -> None:
    turns = Turns(1, 1)
    flood = await asked(turns, FLOOD, 2)
    draining = asyncio.create_task(turns.drain())
    await settle()
    assert turns.turned_away(FLOOD) is None
    await all_ended(flood)
    await draining
