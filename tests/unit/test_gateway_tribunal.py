"""POST /v1/tribunal: whole, and as it happens; over tribunals that go by a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.services import Limits
from app.streaming import with_silences
from deployments.errors import BadRequest, EngineFailed, NotReady, Overloaded, UnknownModel
from deployments.tribunal.events import EventType
from deployments.tribunal.service import TribunalAsk
from tests.unit.asgi import client_of, gateway, post, problem
from tests.unit.fakes import FakeModel, FakeTribunals
from tests.unit.tribunal_events import events, over
from tests.unit.tribunal_script import ERROR, FAILING, RESULT, RUN, SCRIPT, Envelope, told
from tests.waiting import eventually

ASKED = {"question": "where?"}
QUESTION = {"role": "user", "content": "where?"}


# Whole.


async def test_a_question_is_answered_with_the_whole_result() -> None:
    tribunals = FakeTribunals()
    async with client_of(over(tribunals)) as client:
        response = await client.post("/v1/tribunal", json={**ASKED, "resume_s": 30})
    assert (response.status_code, response.json()) == (200, RESULT)
    assert tribunals.asks == [TribunalAsk((QUESTION,))]


async def test_what_is_asked_reaches_the_tribunal() -> None:
    tribunals = FakeTribunals()
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "where"}, {"type": "text", "text": "is it?"}]},
    ]
    body = {"messages": messages, "tribunal": "quick", "config": {"rounds": 2}, "max_tokens": 7, "seed": 5,
            "stream": True, "resume_s": 30}  # fmt: skip
    async with client_of(over(tribunals)) as client:
        assert (await client.post("/v1/tribunal", json=body)).status_code == 200
    plain = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "where\nis it?"})
    assert tribunals.asks == [TribunalAsk(plain, "quick", {"rounds": 2}, 7, 5, 0, True, 30)]


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({}, "question"),
    ({"question": ""}, "question"),
    ({"question": " \n"}, "question"),
    ({"question": 7}, "question"),
    ({**ASKED, "messages": [QUESTION]}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "tool", "content": "x"}, QUESTION]}, "messages.0.role"),
    ({"messages": [QUESTION, {"role": "assistant", "content": "x"}]}, "messages.1.role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
    ({**ASKED, "tribunal": ""}, "tribunal"),
    ({**ASKED, "tribunal": 7}, "tribunal"),
    ({**ASKED, "config": "council"}, "config"),
    ({**ASKED, "config": []}, "config"),
    ({**ASKED, "config": {"seed": 10**30}}, "config.seed"),
    ({**ASKED, "max_tokens": 0}, "max_tokens"),
    ({**ASKED, "max_tokens": 131_073}, "max_tokens"),
    ({**ASKED, "max_tokens": True}, "max_tokens"),
    ({**ASKED, "seed": 2**63}, "seed"),
    ({**ASKED, "stream": "yes"}, "stream"),
    ({**ASKED, "resume_s": -1}, "resume_s"),
    ({**ASKED, "resume_s": 601}, "resume_s"),
    ({**ASKED, "model": "tribunal"}, "model"),
    ({**ASKED, "rounds": 2}, "rounds"),
]


@pytest.mark.parametrize(("body", "param"), BAD_FIELDS, ids=lambda value: json.dumps(value)[:60])
async def test_a_wrong_field_is_named(body: dict[str, Any], param: str) -> None:
    tribunals = FakeTribunals()
    async with client_of(over(tribunals)) as client:
        response = await client.post("/v1/tribunal", json=body)
    assert response.status_code == 400
    assert problem(response)["param"] == param
    assert param in problem(response)["message"]
    assert tribunals.asks == []


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (BadRequest("config.rounds: at least 1", "config.rounds"), 400, "invalid_request", "config.rounds"),
        (UnknownModel("zebra", ("a",)), 404, "model_not_found", "model"),
        (NotReady("The chair is starting.", "config.chair"), 409, "not_ready", "config.chair"),
        (Overloaded("full", 3), 429, "queue_full", None),
        (RuntimeError("secret"), 500, "internal_error", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_refused_before_the_first_event_has_its_status(
    error: Exception, status: int, code: str, param: str | None, stream: bool
) -> None:
    async with client_of(over(FakeTribunals(refuses=error))) as client:
        response = await client.post("/v1/tribunal", json={**ASKED, "stream": stream})
    assert (response.status_code, problem(response)["code"], problem(response)["param"]) == (status, code, param)
    assert "secret" not in response.text


async def test_without_tribunals_there_is_none_to_ask() -> None:
    async with client_of(gateway(FakeModel("a"))) as client:
        asked = await client.post("/v1/tribunal", json=ASKED)
        listed = await client.get("/v1/tribunal")
    assert (asked.status_code, problem(asked)["code"]) == (404, "model_not_found")
    assert listed.json() == {"object": "list", "data": []}


# As it happens.


async def test_a_stream_is_every_envelope_with_its_seq_as_id() -> None:
    async with client_of(over(FakeTribunals())) as client:
        response = await client.post("/v1/tribunal", json={**ASKED, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    assert events(response.content) == [(envelope["seq"], envelope) for envelope in SCRIPT]
    assert "[DONE]" not in response.text


async def test_events_are_sent_as_they_happen_byte_for_byte() -> None:
    tribunals = FakeTribunals(step=asyncio.Semaphore(1))
    call = post(over(tribunals), "/v1/tribunal", {**ASKED, "stream": True})
    await call.start()
    assert await call.piece() == b"id: 1\ndata: " + json.dumps(SCRIPT[0]).encode() + b"\n\n"
    assert call.sent.empty()
    assert tribunals.step
    tribunals.step.release()
    assert (await call.piece()).startswith(b"id: 2\n")
    call.leave()
    await asyncio.wait_for(call.task, 1)


async def test_a_failure_in_the_middle_is_the_last_event() -> None:
    async with client_of(over(FakeTribunals(script=FAILING))) as client:
        response = await client.post("/v1/tribunal", json={**ASKED, "stream": True})
    *_, (seq, last) = events(response.content)
    assert (response.status_code, seq, last["type"], last["error"]) == (200, 3, "error", ERROR)


async def test_an_error_has_the_type_of_its_code_whatever_was_told() -> None:
    script = told((EventType.ERROR, {"error": {**ERROR, "code": "queue_full", "type": "?"}}))
    async with client_of(over(FakeTribunals(script=script))) as client:
        response = await client.post("/v1/tribunal", json={**ASKED, "stream": True})
    ((_, last),) = events(response.content)
    assert last["error"] == {**ERROR, "code": "queue_full", "type": "rate_limit_error"}


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ([*SCRIPT[:3], EngineFailed("died")], "engine_failed"),
        ([*SCRIPT[:3], RuntimeError("secret")], "internal_error"),
        (SCRIPT[:3], "engine_failed"),
        ([*SCRIPT[:3], asyncio.CancelledError()], "engine_failed"),
    ],
)
async def test_a_stream_that_breaks_off_ends_with_an_error_that_nobody_resumes_after(
    script: list[Envelope | BaseException], code: str
) -> None:
    async with client_of(over(FakeTribunals(script=script))) as client:
        response = await client.post("/v1/tribunal", json={**ASKED, "stream": True})
    *_, (event_id, last) = events(response.content)
    assert (event_id, last["v"], last["id"], last["seq"]) == (None, 1, RUN, 4)
    assert (last["type"], last["error"]["code"]) == ("error", code)
    assert "secret" not in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_tribunal(stream: bool) -> None:
    tribunals = FakeTribunals(step=asyncio.Semaphore(2 if stream else 0))
    call = post(over(tribunals), "/v1/tribunal", {**ASKED, "stream": stream})
    await eventually(lambda: tribunals.running == 1 and (not stream or call.sent.qsize() == 3))
    call.leave()
    await asyncio.wait_for(call.task, 1)
    assert (tribunals.running, tribunals.cancelled) == (0, 1)
    assert stream or call.sent.empty()


async def test_silence_is_broken_by_comments_that_disturb_nothing() -> None:
    tribunals = FakeTribunals(step=asyncio.Semaphore(1))
    assert tribunals.step
    call = post(over(tribunals, limits=Limits(alive_s=0.005)), "/v1/tribunal", {**ASKED, "stream": True})
    await call.start()
    pieces = [await call.piece() for _ in range(3)]
    assert pieces[1:] == [b": alive\n\n"] * 2
    for _ in SCRIPT:
        tribunals.step.release()
    await call.task
    while piece := await call.piece():
        pieces.append(piece)
    assert [envelope for _, envelope in events(b"".join(pieces))] == list(SCRIPT)
    assert tribunals.cancelled == 0


async def test_an_error_after_a_comment_is_an_event_for_the_status_is_sent() -> None:
    tribunals = FakeTribunals(script=[EngineFailed("died")], step=asyncio.Semaphore(0))
    call = post(over(tribunals, limits=Limits(alive_s=0.005)), "/v1/tribunal", {**ASKED, "stream": True})
    assert (await call.start())["status"] == 200
    assert await call.piece() == b": alive\n\n"
    assert tribunals.step
    tribunals.step.release()
    while (piece := await call.piece()) == b": alive\n\n":
        pass
    ((_, last),) = events(piece)
    assert (last["seq"], last["error"]["code"]) == (1, "engine_failed")


async def test_one_task_reads_the_source_from_first_to_last() -> None:
    tasks: set[object] = set()

    async def source() -> AsyncIterator[int]:
        try:
            async with asyncio.timeout(5):  # which belongs to the task that entered it
                for number in range(3):
                    tasks.add(asyncio.current_task())
                    await asyncio.sleep(0.01)
                    yield number
        finally:
            tasks.add(asyncio.current_task())

    read = [item async for item in with_silences(source(), 0.003)]
    assert [item for item in read if item is not None] == [0, 1, 2]
    assert None in read
    assert len(tasks) == 1
