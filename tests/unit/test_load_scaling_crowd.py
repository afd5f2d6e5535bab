"""Closed-loop users whose number changes, on a virtual clock."""

from __future__ import annotations

import asyncio

from loadtests.records import Fault
from loadtests.scaling.crowd import Crowd
from tests.unit.load_scaling_fakes import Service, bodies, in_virtual_time, now


def test_each_user_asks_again_with_its_answer() -> None:
    async def run() -> None:
        service = Service()
        async with Crowd(service, bodies(), now) as crowd:
            crowd.resize(3)
            await asyncio.sleep(4.5)
            assert service.begun == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
            assert (crowd.in_flight, len(crowd.samples)) == (3, 12)

    in_virtual_time(run)


def test_users_too_many_wait_for_their_answers_and_ask_no_more() -> None:
    async def run() -> None:
        service = Service()
        async with Crowd(service, bodies(), now) as crowd:
            crowd.resize(4)
            await asyncio.sleep(0.5)
            crowd.resize(1)
            assert crowd.in_flight == 4
            await asyncio.sleep(1)
            assert crowd.in_flight == 1
            assert len(crowd.samples) == 4
            assert all(each.ok for each in crowd.samples)

    in_virtual_time(run)


def test_users_come_back_when_there_are_more_again() -> None:
    async def run() -> None:
        service = Service()
        async with Crowd(service, bodies(), now) as crowd:
            crowd.resize(4)
            await asyncio.sleep(0.5)
            crowd.resize(2)
            await asyncio.sleep(0.1)
            crowd.resize(4)  # two of them have not even noticed
            await asyncio.sleep(3)
            assert crowd.in_flight == 4

    in_virtual_time(run)


def test_who_thinks_asks_later_and_is_not_in_flight() -> None:
    async def run() -> None:
        service = Service()
        async with Crowd(service, bodies(), now, think_s=2) as crowd:
            crowd.resize(8)
            await asyncio.sleep(1.5)
            assert crowd.in_flight == 0
            await asyncio.sleep(3)
        again = service.begun[8:16]
        assert 2 <= min(again) < max(again) <= 4
        assert len(set(again)) == 8  # nobody in step with another

    in_virtual_time(run)


def test_who_is_refused_asks_again_after_a_second() -> None:
    async def run() -> None:
        service = Service(faults=lambda _: Fault.CONNECTION)
        async with Crowd(service, bodies(), now) as crowd:
            crowd.resize(1)
            await asyncio.sleep(3.5)
            assert service.begun == [0, 1, 2, 3]

    in_virtual_time(run)


def test_leaving_waits_for_what_is_under_way() -> None:
    async def run() -> None:
        service = Service(answer_s=3)
        async with Crowd(service, bodies(), now) as crowd:
            crowd.resize(5)
            await asyncio.sleep(1)
            assert await crowd.leave() == 0
            assert len(crowd.samples) == 5

    in_virtual_time(run)


def test_answers_that_were_always_slow_are_waited_for() -> None:
    """So many at once that each takes longer than any before it."""

    async def run() -> None:
        service = Service(answer_s=10)
        async with Crowd(service, bodies(), now) as crowd:
            crowd.resize(1)
            await asyncio.sleep(15)
            crowd.resize(40)
            await asyncio.sleep(0.1)
            assert await crowd.leave() == 0
            assert all(each.ok for each in crowd.samples)

    in_virtual_time(run)


def test_what_is_slower_than_any_answer_is_cut_off_and_has_failed() -> None:
    async def run() -> None:
        service = Service(answer_s=100)
        async with Crowd(service, bodies(), now) as crowd:
            crowd.resize(5)
            await asyncio.sleep(1)
            assert await crowd.leave() == 5
            assert (crowd.in_flight, service.in_flight) == (0, 0)
        seen = [(each.fault, each.began_s, each.ended_s, each.detail) for each in crowd.samples]
        assert seen == [(Fault.TIMEOUT, 0, 6, "no end of the answer within 5.0 s after the load")] * 5

    in_virtual_time(run)
