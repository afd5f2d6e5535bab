"""Turns before the engine: who is inside, who comes next, and what is told of it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from itertools import chain

import pytest

from deployments.principal import ANYBODY, Principal
from deployments.turns import KeyCount, Turns, default_reserve
from tests.unit.turns_requests import FLOOD, QUIET, THIRD, Clock, Request, all_ended, asked, inside, settle


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


@pytest.mark.parametrize(
    "principals", [[ANYBODY] * 30, [Principal(str(number)) for number in range(30)]], ids=["no keys", "quiet keys"]
)
async def test_without_a_flood_all_places_are_used(principals: list[Principal]) -> None:
    turns = Turns(16, 100)
    requests = [Request(turns, principal) for principal in principals]
    await settle()
    assert [request.inside for request in requests] == [True] * 16 + [False] * 14
    assert (turns.inside, turns.waiting) == (16, 14)
    assert {request.turn.priority for request in requests[:16]} == {0}
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


async def test_a_failing_request_leaves() -> None:
    turns = Turns(1, 1)
    with pytest.raises(ZeroDivisionError):
        async with turns.turn(FLOOD, 1):
            raise ZeroDivisionError
    assert turns.inside == 0


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
