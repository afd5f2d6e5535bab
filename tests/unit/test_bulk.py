"""POST /bulk: order, isolation, bounds, patience and cancellation; first the core, then the route."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from app.bulk import BulkJob, BulkLine, Gates, Runner, backoff_s, in_order, run_bulk
from app.routes.bulk import ITEMS_PER_BREATH
from app.services import BulkLimits, Limits
from deployments.chat import ChatModel, ChatReply, ChatRequest
from deployments.errors import DeadlineExceeded, EngineFailed, Overloaded, Unavailable
from deployments.status import ModelState, ModelStatus
from tests.unit.asgi import client_of, gateway, post, problem
from tests.unit.fakes import FakeBatchModel, FakeHerd, FakeModel
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


async def test_a_failing_item_is_its_own_line_only() -> None:
    error = EngineFailed("died")
    model = FakeModel("a", echo, fails=lambda request: error if echo(request) in "13" else None)
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


async def test_what_is_late_fails_with_the_deadline_and_frees_its_slot() -> None:
    model = FakeModel("a", step=asyncio.Semaphore(1))
    lines = await lines_of(jobs(4), runner(model, max_in_flight=2, deadline_s=0.02))
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


async def test_a_failing_item_of_a_batch_is_its_own_line_only() -> None:
    error = EngineFailed("died")
    model = FakeBatchModel("a", echo, fails=lambda request: error if echo(request) in "13" else None)
    lines = sorted(await lines_of(jobs(5), runner(model)), key=lambda line: line.index)
    assert [line.error for line in lines] == [None, error, None, error, None]


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


async def test_the_late_items_of_a_batch_fail_with_the_deadline_and_free_their_slots() -> None:
    model = FakeBatchModel("a", step=asyncio.Semaphore(1))
    lines = await lines_of(jobs(4), runner(model, max_in_flight=2, deadline_s=0.5))
    assert sorted(type(line.error).__name__ for line in lines) == ["DeadlineExceeded"] * 3 + ["NoneType"]
    assert model.running == 0


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


# The route.


def item(prompt: str = "where?", **more: Any) -> dict[str, Any]:
    return {"model": "pocket-1b", "prompt": prompt, **more}


def waits_by_prompt(request: ChatRequest) -> str:
    return f"said {echo(request)}"


async def test_answers_come_in_order_with_ids_errors_and_a_summary() -> None:
    died = EngineFailed("died")
    model = FakeModel(answer=waits_by_prompt, fails=lambda request: died if echo(request) == "b" else None)
    items = [item("a", id="x"), item("b"), item("c", max_tokens=0, id="z"), item("d", model="nope"), "text", item("e")]
    async with client_of(gateway(model)) as client:
        response = await client.post("/bulk", json={"items": items})
    body = response.json()
    assert (response.status_code, body["object"]) == (200, "bulk")
    assert [line["index"] for line in body["items"]] == list(range(6))
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    result = {"model": "pocket-1b", "text": "said a", "finish_reason": "stop", "usage": usage}
    assert body["items"][0] == {"index": 0, "id": "x", "result": result}
    failed = {"message": "died", "type": "server_error", "param": None, "code": "engine_failed"}
    assert body["items"][1] == {"index": 1, "error": failed}
    assert (body["items"][2]["id"], body["items"][2]["error"]["param"]) == ("z", "max_tokens")
    assert body["items"][3]["error"]["code"] == "model_not_found"
    assert body["items"][4]["error"]["param"] == "body"
    assert body["items"][5]["result"]["text"] == "said e"
    expected = {"total": 6, "succeeded": 2, "failed": 4, "prompt_tokens": 2, "completion_tokens": 4}
    assert body["summary"] == expected


async def test_defaults_hold_where_an_item_says_nothing() -> None:
    model = FakeModel()
    items = [{"prompt": "a"}, {"prompt": "b", "max_tokens": 9, "temperature": None}]
    call = {"model": "pocket-1b", "defaults": {"max_tokens": 3, "temperature": 0.5}, "items": items}
    async with client_of(gateway(model)) as client:
        await client.post("/bulk", json=call)
    assert [request.params for request in model.requests] == [{"max_tokens": 3, "temperature": 0.5}, {"max_tokens": 9}]


async def test_bulk_requests_stand_behind_interactive_ones() -> None:
    model = FakeModel()
    limits = Limits(bulk=BulkLimits(priority=42))
    async with client_of(gateway(model, limits=limits)) as client:
        await client.post("/bulk", json={"items": [item()]})
        await client.post("/generate", json=item())
    assert [request.priority for request in model.requests] == [42, 0]


@pytest.mark.parametrize("how", ["accept", "stream"])
async def test_lines_come_as_items_finish_each_with_its_index(how: str) -> None:
    step = asyncio.Semaphore(0)
    slow, quick = FakeModel("slow", step=step), FakeModel("quick")
    items = [item(model="slow"), item(model="quick"), item(model="nope", id="n")]
    headers = {"accept": "application/x-ndjson"} if how == "accept" else {}
    call = post(
        gateway(slow, quick), "/bulk", {"items": items} | ({"stream": True} if how == "stream" else {}), **headers
    )
    assert dict((await call.start())["headers"])[b"content-type"].startswith(b"application/x-ndjson")
    early = [json.loads(await call.piece()) for _ in range(2)]
    assert [(line["index"], sorted(line)) for line in early] == [
        (2, ["error", "id", "index"]),
        (1, ["index", "result"]),
    ]
    assert call.sent.empty()
    step.release()
    assert json.loads(await call.piece())["index"] == 0
    assert await call.piece() == b""


async def test_an_ndjson_body_has_one_item_a_line_and_a_broken_line_is_its_own_error() -> None:
    text = b'{"model":"pocket-1b","prompt":"a"}\n\n{"model":\r\n{"model":"pocket-1b","prompt":"c"}\r\n\xff\n'
    headers = {"content-type": "application/x-ndjson"}
    async with client_of(gateway(FakeModel())) as client:
        response = await client.post("/bulk", content=text, headers=headers)
    lines = response.json()["items"]
    assert [line.get("error", {}).get("param") for line in lines] == [None, "body", None, "body"]


async def test_the_json_answer_starts_before_the_last_item_is_done() -> None:
    step = asyncio.Semaphore(1)
    call = post(gateway(FakeModel(step=step)), "/bulk", {"items": [item(), item()]})
    await call.start()
    first = await call.piece()
    assert first.startswith(b'{"object":"bulk","items":[{"index":0')
    step.release()
    rest = b"".join([await call.piece() for _ in range(3)])
    assert json.loads(first + rest)["summary"]["succeeded"] == 2


async def test_a_client_that_leaves_cancels_every_item_in_flight() -> None:
    model = FakeModel(step=asyncio.Semaphore(0))
    limits = Limits(bulk=BulkLimits(max_in_flight=7))
    call = post(gateway(model, limits=limits), "/bulk", {"items": [item()] * 50})
    await eventually(lambda: model.running == 7)
    call.leave()
    await asyncio.wait_for(call.task, 1)
    assert (model.running, model.cancelled, len(model.requests)) == (0, 7, 7)


async def test_a_failed_model_fails_its_items_at_once_and_no_others() -> None:
    failed, ready = FakeModel("bad", step=asyncio.Semaphore(0)), FakeModel("good")
    good = ModelStatus("good", ModelState.READY)
    herd = FakeHerd(ModelStatus("bad", ModelState.FAILED, reason="no GPU"), good)
    async with client_of(gateway(failed, ready, herd=herd)) as client:
        response = await client.post("/bulk", json={"items": [item(model="bad"), item(model="good")]})
    bad, fine = response.json()["items"]
    assert bad["error"]["code"] == Unavailable.reason
    assert "no GPU" in bad["error"]["message"]
    assert "result" in fine


async def test_adapters_of_one_base_share_its_bound() -> None:
    limits = Limits(bulk=BulkLimits(max_in_flight=2))
    running = asyncio.Semaphore(0)
    base, adapter = FakeModel("base", step=running), FakeModel("adapter", step=running)
    app = gateway(base, adapter, limits=limits, base_of={"base": "base", "adapter": "base"})
    call = post(app, "/bulk", {"items": [item(model="base"), item(model="adapter")] * 4})
    await eventually(lambda: base.running + adapter.running == 2)
    await asyncio.sleep(0.01)
    assert base.running + adapter.running == 2
    call.leave()
    await asyncio.wait_for(call.task, 1)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": []}, "items"),
        ({"items": [item()] * 4}, "items"),
        ({"items": {}}, "items"),
        ({"items": None}, "items"),
        ({}, "items"),
        ({"items": [item()], "defaults": {"temperature": 9}}, "defaults.temperature"),
        ({"items": [item()], "defaults": {"temprature": 1}}, "defaults.temprature"),
        ({"items": [item()], "model": 3}, "model"),
        ({"items": [item()], "max_tokens": 3}, "max_tokens"),
    ],
)
async def test_a_wrong_call_is_refused_whole_and_names_the_field(body: Any, param: str) -> None:
    model = FakeModel()
    async with client_of(gateway(model, limits=Limits(bulk=BulkLimits(max_items=3)))) as client:
        response = await client.post("/bulk", json=body)
    assert response.status_code == 400
    assert problem(response)["param"] == param
    assert model.requests == []


async def test_an_unexpected_failure_of_an_item_shows_nothing_and_is_counted() -> None:
    async with client_of(gateway(FakeModel(fails=lambda _: KeyError("secret")))) as client:
        response = await client.post("/bulk", json={"items": [item(), item(max_tokens=-1)]})
        metrics = (await client.get("/metrics")).text
    assert response.json()["items"][0]["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    assert 'corral_bulk_items_total{outcome="internal_error"} 1.0' in metrics
    assert 'corral_bulk_items_total{outcome="invalid_request"} 1.0' in metrics


async def test_others_get_their_turn_while_thousands_of_items_are_looked_at() -> None:
    model = FakeModel()
    call = post(gateway(model), "/bulk", {"items": [item()] * 2000})
    turns = 0
    while not model.requests:
        await asyncio.sleep(0)
        turns += 1
    assert turns > 2000 / ITEMS_PER_BREATH
    call.leave()
    await asyncio.wait_for(call.task, 2)


async def test_an_id_that_cannot_be_echoed_is_its_item_s_error() -> None:
    body = b'{"items": [{"id": "\\ud800", "model": "pocket-1b", "prompt": "x"}, %s, %s]}'
    items = (json.dumps(item(id="x" * 300)).encode(), json.dumps(item(id="fine")).encode())
    async with client_of(gateway(FakeModel())) as client:
        headers = {"content-type": "application/json"}
        lines = (await client.post("/bulk", content=body % items, headers=headers)).json()["items"]
    assert [line.get("error", {}).get("param") for line in lines] == ["id", "id", None]
    assert [line["id"] for line in lines] == ["?", "x" * 256, "fine"]
