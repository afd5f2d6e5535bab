"""Bulk items beside people: few of them, and all again when nobody asks any more."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from deployments.courtesy import Courtesy


class Items:
    """Bulk items that stay in the engine until they are told to end."""

    def __init__(self, courtesy: Courtesy, count: int) -> None:
        self._courtesy = courtesy
        self.end = asyncio.Semaphore(0)
        self.tasks = [asyncio.create_task(self._run()) for _ in range(count)]

    async def _run(self) -> None:
        async with self._courtesy.item():
            await self.end.acquire()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_all_items_run_while_nobody_asks() -> None:
    courtesy = Courtesy(few=2, most=50)
    items = Items(courtesy, 50)
    await settle()
    assert courtesy.items == 50
    await items.stop()
    assert courtesy.items == 0


async def test_an_engine_that_is_full_gets_no_more_until_one_ends() -> None:
    courtesy = Courtesy(few=2, most=8)
    items = Items(courtesy, 20)
    await settle()
    assert courtesy.items == 8
    items.end.release()
    await settle()
    assert courtesy.items == 8
    assert sum(task.done() for task in items.tasks) == 1
    for _ in range(19):
        items.end.release()
    await asyncio.gather(*items.tasks)
    assert courtesy.items == 0


async def test_beside_people_there_are_few_and_those_that_run_are_not_ended() -> None:
    courtesy = Courtesy(few=2, most=50)
    running = Items(courtesy, 5)
    await settle()
    with courtesy.person():
        more = Items(courtesy, 5)
        await settle()
        assert courtesy.items == 5  # what was there before goes on
        for _ in range(4):
            running.end.release()
        await settle()
        assert courtesy.items == 2  # the last one, and one of the waiting
    await running.stop()
    await more.stop()
    assert courtesy.items == 0


async def test_all_run_again_when_nobody_has_asked_for_a_while() -> None:
    courtesy = Courtesy(few=1, most=50, linger_s=0.02)
    with courtesy.person():
        items = Items(courtesy, 8)
        await settle()
        assert courtesy.items == 1
    await settle()
    assert courtesy.items == 1  # the next question is expected
    while courtesy.items < 8:
        await asyncio.sleep(0.005)
    await items.stop()


@pytest.mark.parametrize("had_its_turn", [False, True])
async def test_an_item_that_is_cancelled_leaves_its_place(had_its_turn: bool) -> None:
    courtesy = Courtesy(few=1, most=50)
    with courtesy.person():
        first, second = Items(courtesy, 1), Items(courtesy, 1)
        await settle()
        if had_its_turn:
            first.end.release()
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
