"""Bulk items beside people: few of them, all again when nobody asks any more, and room for who meets a full engine."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from deployments.courtesy import Courtesy
from deployments.principal import ANYBODY, Principal


class Items:
    """Bulk items that stay in the engine until they are told to end."""

    def __init__(
        self, courtesy: Courtesy, count: int, principal: Principal = ANYBODY, *, ends_well: bool = False
    ) -> None:
        self._ends_well = ends_well
        self.end = asyncio.Semaphore(0)
        self.begun: list[int] = []
        self.tasks = [asyncio.create_task(courtesy.item(partial(self._run, number), principal))
                      for number in range(count)]  # fmt: skip

    async def _run(self, number: int) -> int:
        self.begun.append(number)
        try:
            await self.end.acquire()
        except asyncio.CancelledError:
            if not self._ends_well:  # vLLM answers with an error instead
                raise
            return -1
        return number

    def finish(self, count: int) -> None:
        for _ in range(count):
            self.end.release()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_all_items_run_while_nobody_asks() -> None:
    courtesy = Courtesy(64)
    items = Items(courtesy, 50)
    await settle()
    assert courtesy.items == 50
    await items.stop()
    assert courtesy.items == courtesy.waiting == 0


async def test_an_engine_that_is_full_gets_no_more_until_one_ends() -> None:
    courtesy = Courtesy(8)
    items = Items(courtesy, 20)
    await settle()
    assert (courtesy.items, courtesy.waiting) == (12, 8)
    items.finish(1)
    await settle()
    assert (courtesy.items, courtesy.waiting) == (12, 7)
    items.finish(19)
    assert await asyncio.gather(*items.tasks) == list(range(20))
    assert courtesy.items == courtesy.waiting == 0


async def test_beside_people_there_are_few_and_those_that_run_are_not_ended() -> None:
    courtesy = Courtesy(16)
    running = Items(courtesy, 5)
    await settle()
    with courtesy.person():
        more = Items(courtesy, 5)
        await settle()
        assert courtesy.items == 5  # what was there before goes on
        running.finish(4)
        await settle()
        assert courtesy.items == 2  # the last one, and one of the waiting
    await running.stop()
    await more.stop()
    assert courtesy.items == courtesy.waiting == 0


@pytest.mark.parametrize("ends_well", [False, True])
async def test_the_youngest_in_a_full_engine_makes_room_and_is_answered_later(ends_well: bool) -> None:
    courtesy = Courtesy(4, linger_s=0.02)
    items = Items(courtesy, 6, ends_well=ends_well)
    await settle()
    assert items.begun == [0, 1, 2, 3, 4, 5]  # two of them wait in the engine
    with courtesy.person():
        await settle()
        assert courtesy.items == 5
        with courtesy.person():
            await settle()
            assert courtesy.items == 4
        assert items.begun == [0, 1, 2, 3, 4, 5]  # none comes back beside people
    while len(items.begun) < 8:
        await asyncio.sleep(0.005)
    assert sorted(items.begun[6:]) == [2, 3]
    items.finish(6)
    assert await asyncio.gather(*items.tasks) == [0, 1, 2, 3, 4, 5]
    assert courtesy.items == courtesy.waiting == 0


async def test_many_people_leave_bulk_its_few() -> None:
    courtesy = Courtesy(16)
    items = Items(courtesy, 16)
    await settle()
    with ExitStack() as people:
        for _ in range(40):
            people.enter_context(courtesy.person())
        await settle()
        assert courtesy.items == 2
    await items.stop()


async def test_an_item_that_was_given_up_can_be_cancelled() -> None:
    courtesy = Courtesy(4)
    items = Items(courtesy, 4)
    await settle()
    with courtesy.person():
        await items.stop()
        assert all(task.cancelled() for task in items.tasks)
        assert courtesy.items == courtesy.waiting == 0


async def test_running_and_waiting_items_are_cancelled_together() -> None:
    courtesy = Courtesy(2)
    items = Items(courtesy, 20)
    await settle()
    await items.stop()
    assert all(task.cancelled() for task in items.tasks)
    assert courtesy.items == courtesy.waiting == 0


async def test_all_run_again_when_nobody_has_asked_for_a_while() -> None:
    courtesy = Courtesy(8, linger_s=0.02)
    with courtesy.person():
        items = Items(courtesy, 8)
        await settle()
        assert courtesy.items == 1
    await settle()
    assert courtesy.items == 1  # the next question is expected
    while courtesy.items < 8:
        await asyncio.sleep(0.005)
    await items.stop()


async def test_items_that_come_just_after_somebody_do_not_wait_for_one_another() -> None:
    courtesy = Courtesy(8, linger_s=0.02)
    with courtesy.person():
        pass
    items = Items(courtesy, 8)
    await settle()
    assert courtesy.items == 1
    async with asyncio.timeout(5):
        while courtesy.items < 8:
            await asyncio.sleep(0.005)
    await items.stop()


@pytest.mark.parametrize("had_its_turn", [False, True])
async def test_an_item_that_is_cancelled_leaves_its_place(had_its_turn: bool) -> None:
    courtesy = Courtesy(8)
    with courtesy.person():
        first, second = Items(courtesy, 1), Items(courtesy, 1)
        await settle()
        if had_its_turn:
            first.finish(1)
            await asyncio.sleep(0)
        second.tasks[0].cancel()
        with suppress(asyncio.CancelledError):
            await second.tasks[0]
        await first.stop()
        assert courtesy.items == 0
        third = Items(courtesy, 1)
        await settle()
        assert courtesy.items == 1
        await third.stop()


async def test_a_key_with_few_items_does_not_wait_for_all_of_another_keys() -> None:
    courtesy = Courtesy(2)
    flood, quiet = Items(courtesy, 12, Principal("a")), Items(courtesy, 2, Principal("b"))
    await settle()
    assert (flood.begun, quiet.begun) == ([0, 1, 2], [])
    flood.finish(3)
    await settle()
    assert (flood.begun, quiet.begun) == ([0, 1, 2, 3, 4], [0])  # in turn
    flood.finish(1)
    await settle()
    assert quiet.begun == [0, 1]
    await flood.stop()
    await quiet.stop()


async def test_an_item_that_was_given_up_comes_before_those_that_never_ran() -> None:
    courtesy = Courtesy(2)
    first, other = Items(courtesy, 3, Principal("a")), Items(courtesy, 2, Principal("b"))
    await settle()
    with courtesy.person():
        await settle()
        assert courtesy.items == 2
        first.finish(2)
        await settle()
        assert first.begun == [0, 1, 2, 1]
        assert other.begun == []
    await first.stop()
    await other.stop()
