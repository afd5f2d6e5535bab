"""POST /bulk: what it takes and refuses, what its answer says and when, and what becomes of it when a client leaves."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from app.routes.bulk import ITEMS_PER_BREATH
from app.services import BulkLimits, Limits
from deployments.chat import ChatRequest
from deployments.errors import EngineFailed, Unavailable
from deployments.status import ModelState, ModelStatus
from tests.unit.asgi import client_of, gateway, post, problem
from tests.unit.fakes import FakeHerd, FakeModel
from tests.waiting import eventually


def echo(request: ChatRequest) -> str:
    return str(request.messages[0]["content"])


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
