"""Whose bulk items are next: keys take turns, whatever each of them has waiting."""

from __future__ import annotations

import asyncio

from app.bulk_gates import Gate
from deployments.principal import CURRENT, Principal

FLOOD, QUIET = Principal("flood"), Principal("quiet")


async def batch(gate: Gate, principal: Principal, count: int, told: list[str]) -> None:
    CURRENT.set(principal)
    await gate.take(count)
    told.append(principal.key)


async def waiting(gate: Gate, told: list[str], *batches: tuple[Principal, int]) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(batch(gate, principal, count, told)) for principal, count in batches]
    await settle()
    return tasks


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_key_with_one_batch_does_not_wait_for_all_of_another_keys() -> None:
    gate, told = Gate(32), list[str]()
    await waiting(gate, told, *[(FLOOD, 32)] * 6, (QUIET, 32))
    for _ in range(2):
        gate.give_back(32)
        await settle()
    assert "quiet" in told
    assert len(told) == 3


async def test_a_key_that_weighs_more_has_more_turns() -> None:
    gate, told = Gate(8), list[str]()
    heavy = Principal("heavy", weight=3)
    await waiting(gate, told, (QUIET, 8), *[(QUIET, 8)] * 8, *[(heavy, 8)] * 8)
    for _ in range(8):
        gate.give_back(8)
        await settle()
    assert told[1:].count("heavy") == 6


async def test_who_is_next_is_not_passed_by_one_that_needs_fewer_places() -> None:
    gate, told = Gate(8), list[str]()
    await waiting(gate, told, (FLOOD, 8), (QUIET, 8), (FLOOD, 1))
    gate.give_back(7)
    await settle()
    assert told == ["flood"]
    gate.give_back(1)
    await settle()
    assert told == ["flood", "quiet"]


async def test_keys_get_no_more_places_than_there_are() -> None:
    gate, told = Gate(10), list[str]()
    tasks = await waiting(gate, told, *[(FLOOD, 3)] * 4, *[(QUIET, 3)] * 4)
    assert sum(task.done() for task in tasks) == 3


async def test_a_batch_that_is_given_up_does_not_stand_before_others() -> None:
    gate, told = Gate(4), list[str]()
    _, given_up, third = await waiting(gate, told, (FLOOD, 4), (FLOOD, 4), (FLOOD, 2))
    given_up.cancel()
    gate.give_back(2)
    await settle()
    assert third.done()


async def test_a_batch_that_is_given_up_as_it_gets_its_places_leaves_them_to_others() -> None:
    gate, told = Gate(4), list[str]()
    _, given_up = await waiting(gate, told, (FLOOD, 4), (QUIET, 4))
    gate.give_back(4)  # which it does not know yet
    given_up.cancel()
    await settle()
    (later,) = await waiting(gate, told, (FLOOD, 4))
    assert later.done()
    assert told == ["flood", "flood"]
