"""What POST /bulk runs on: order, isolation, bounds, patience and cancellation."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from app.bulk import BulkJob, BulkLine, Runner, backoff_s, in_order, run_bulk
from app.bulk_gates import Gates
from deployments.chat import ChatModel, ChatReply, ChatRequest
from deployments.errors import DeadlineExceeded, EngineFailed, Overloaded
from tests.unit.fakes import FakeBatchModel, FakeModel
from tests.waiting import eventually


def jobs(count: int, lane: str = "a") -> list[BulkJob]:
    return [BulkJob(i, lane, lane, ChatRequest(({"role": "user", "content": str(i)},))) for i in range(count)]


def echo(request: ChatRequest) -> str:
    return str(request.messages[0]["content"])


def runner(*models: FakeModel, max_in_flight: int = 4, deadline_s: float = 5, **more: Any) -> Runner:
    known = {model.model_id: model for model in models}

    async def find(model: str) -> ChatModel:
        return known[model]

    return Runner(find, Gates(max_in_flight), deadline_s, **more)


async def lines_of(work: list[BulkJob], how: Runner) -> list[BulkLine]:
    return [line async for line in run_bulk(work, how)]


async def test_every_job_has_one_line_and_never_more_run_than_the_bound() -> None:
    model = FakeModel("a", echo, delay_s=0.001)
    lines = await lines_of(jobs(40), runner(model, max_in_flight=4))
    assert sorted(line.index for line in lines) == list(range(40))
    assert all(line.reply and line.reply.text == str(line.index) for line in lines)
    assert model.peak == 4


async def test_the_bound_holds_over_several_calls_and_for_each_lane_alone() -> None:
    first, second = FakeModel("a", delay_s=0.002), FakeModel("b", delay_s=0.002)
    how = runner(first, second, max_in_flight=3)
    mixed = jobs(8) + [BulkJob(8 + job.index, "b", "b", job.request) for job in jobs(8)]
    await asyncio.gather(lines_of(mixed, how), lines_of(mixed, how))
    assert (first.peak, second.peak) == (3, 3)
    assert len(first.requests) == len(second.requests) == 16


async def test_a_slow_lane_does_not_hold_up_another() -> None:
    slow, quick = FakeModel("a", step=asyncio.Semaphore(0)), FakeModel("b")
    work = jobs(6) + [BulkJob(6 + job.index, "b", "b", job.request) for job in jobs(6)]
    async with aclosing(run_bulk(work, runner(slow, quick, max_in_flight=2))) as lines:
        first = [(await asyncio.wait_for(anext(lines), 1)).index for _ in range(6)]
    assert sorted(first) == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("kind", [FakeModel, FakeBatchModel])
async def test_a_failing_item_is_its_own_line_only(kind: type[FakeModel]) -> None:
    error = EngineFailed("died")
    model = kind("a", echo, fails=lambda request: error if echo(request) in "13" else None)
    lines = sorted(await lines_of(jobs(5), runner(model)), key=lambda line: line.index)
    assert [line.error for line in lines] == [None, error, None, error, None]


async def test_a_model_that_cancels_itself_is_a_line_and_not_a_hang() -> None:
    class Cancelling(FakeModel):
        async def chat(self, request: ChatRequest) -> ChatReply:
            raise asyncio.CancelledError

    lines = await asyncio.wait_for(lines_of(jobs(9), runner(Cancelling("a"))), 2)
    assert [type(line.error) for line in lines] == [EngineFailed] * 9


async def test_a_full_queue_is_waited_out() -> None:
    waits: list[float] = []
    refusals = iter([Overloaded("full", 7), Overloaded("full", 1), None])

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    model = FakeModel("a", fails=lambda _: next(refusals))
    (line,) = await lines_of(jobs(1), runner(model, sleep=sleep, jitter=lambda: 0))
    assert line.reply
    assert waits == [7, 1]


@pytest.mark.parametrize(
    ("attempt", "retry_after", "jitter", "expected"),
    [(0, 0, 0, 0.5), (3, 1, 0, 4), (50, 1, 0, 30), (0, 60, 0, 60), (0, 60, 1, 90)],
)
def test_backoff_doubles_and_honours_retry_after(
    attempt: int, retry_after: float, jitter: float, expected: float
) -> None:
    assert backoff_s(attempt, retry_after, jitter) == expected


@pytest.mark.parametrize(("kind", "deadline_s"), [(FakeModel, 0.5), (FakeBatchModel, 0.5)])
async def test_what_is_late_fails_with_the_deadline_and_frees_its_slot(
    kind: type[FakeModel], deadline_s: float
) -> None:
    model = kind("a", step=asyncio.Semaphore(1))
    lines = await lines_of(jobs(4), runner(model, max_in_flight=2, deadline_s=deadline_s))
    assert sorted(type(line.error).__name__ for line in lines) == ["DeadlineExceeded"] * 3 + ["NoneType"]
    assert model.running == 0


async def test_a_timeout_of_the_model_itself_is_not_called_the_deadline() -> None:
    (line,) = await lines_of(jobs(1), runner(FakeModel("a", fails=lambda _: TimeoutError())))
    assert isinstance(line.error, TimeoutError)
    assert not isinstance(line.error, DeadlineExceeded)


async def test_closing_cancels_all_in_flight_and_starts_no_more() -> None:
    model = FakeModel("a", step=asyncio.Semaphore(1))
    async with aclosing(run_bulk(jobs(100), runner(model, max_in_flight=5))) as lines:
        await anext(lines)
        await eventually(lambda: model.running == 5)
    assert (model.running, model.cancelled, len(model.requests)) == (0, 5, 6)


async def test_a_slow_reader_holds_the_work_back() -> None:
    model = FakeModel("a")
    async with aclosing(run_bulk(jobs(1000), runner(model, max_in_flight=2))) as lines:
        await anext(lines)
        await asyncio.sleep(0.02)
        assert len(model.requests) < 20


async def test_a_model_that_takes_many_gets_batches_and_keeps_the_bound() -> None:
    model = FakeBatchModel("a", echo, delay_s=0.001)
    lines = await lines_of(jobs(100), runner(model, max_in_flight=32))
    assert sorted(line.index for line in lines) == list(range(100))
    assert all(line.reply and line.reply.text == str(line.index) for line in lines)
    assert model.calls == [32, 32, 32, 4]
    assert model.peak <= 32


async def test_a_refused_batch_is_sent_again_and_a_broken_one_is_told_for_each_item() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    model = FakeBatchModel("a", refuses=lambda call: Overloaded("full", 7) if call == 1 else None)
    lines = await lines_of(jobs(3), runner(model, sleep=sleep, jitter=lambda: 0))
    assert [bool(line.reply) for line in lines] == [True] * 3
    assert waits == [7]
    broken = FakeBatchModel("a", refuses=lambda _: EngineFailed("gone"))
    assert [str(line.error) for line in await lines_of(jobs(3), runner(broken))] == ["gone"] * 3


async def test_closing_cancels_batches_in_flight() -> None:
    model = FakeBatchModel("a", step=asyncio.Semaphore(1))
    async with aclosing(run_bulk(jobs(100), runner(model, max_in_flight=5))) as lines:
        await anext(lines)
    assert model.running == 0
    assert len(model.requests) < 100


async def test_a_second_bulk_call_gets_its_turn_beside_the_first() -> None:
    model = FakeBatchModel("a", echo, delay_s=0.001)
    how = runner(model, max_in_flight=32)
    first = asyncio.create_task(lines_of(jobs(800), how))
    await eventually(lambda: bool(model.requests))
    await lines_of(jobs(16), how)
    assert not first.done()
    await first


async def test_items_of_a_base_and_its_adapters_mixed_go_in_batches_side_by_side() -> None:
    first, second = FakeBatchModel("a", echo, delay_s=0.001), FakeBatchModel("b", echo, delay_s=0.001)
    mixed = [BulkJob(job.index, "ab"[job.index % 2], "a", job.request) for job in jobs(200)]
    how = runner(first, second, max_in_flight=64)

    async def found_later(name: str) -> FakeModel:
        await asyncio.sleep(0)  # as a look at the herd does now and then
        return {"a": first, "b": second}[name]

    lines = await lines_of(mixed, replace(how, find=found_later))
    assert sorted(line.index for line in lines) == list(range(200))
    assert not [line.error for line in lines if line.error]
    assert (sum(first.calls), sum(second.calls)) == (100, 100)
    assert max(len(first.calls), len(second.calls)) <= 8
    assert max(first.peak, second.peak) <= 64


async def test_a_lane_may_have_places_of_its_own() -> None:
    model = FakeBatchModel("a", echo, delay_s=0.001)
    how = replace(runner(model), gates=Gates(4, {"a": 48}))
    await lines_of(jobs(100), how)
    assert 4 < model.peak <= 48


async def test_in_order_gives_each_line_as_soon_as_all_before_it_are_there() -> None:
    taken: list[int] = []

    async def shuffled() -> Any:
        for index in (2, 0, 1, 4, 3):
            taken.append(index)
            yield BulkLine(index)

    seen = [(line.index, len(taken)) async for line in in_order(shuffled())]
    assert seen == [(0, 2), (1, 3), (2, 3), (3, 5), (4, 5)]
