"""POST /generate: answers, streams, errors and cancellation, over fakes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.routes.generate import sse
from deployments.chat import ChatDelta, ChatRequest, Usage
from deployments.errors import DeadlineExceeded, EngineFailed, Overloaded, PromptTooLong, ServingError
from deployments.status import ModelState, ModelStatus
from tests.unit.asgi import client_of, gateway, post, problem
from tests.unit.fakes import FakeHerd, FakeModel
from tests.waiting import eventually

ASKED = {"model": "pocket-1b", "prompt": "where?"}


def events(body: bytes) -> list[Any]:
    texts = body.decode().removesuffix("\n\n").split("\n\n")
    assert all(text.startswith("data: ") for text in texts)
    return [text if text == "data: [DONE]" else json.loads(text[6:]) for text in texts]


async def test_a_prompt_is_one_user_message_and_the_answer_is_whole() -> None:
    model = FakeModel()
    async with client_of(gateway(model)) as client:
        response = await client.post("/generate", json={**ASKED, "max_tokens": 5, "stop": ["x"], "seed": None})
    assert response.status_code == 200
    assert response.json() == {
        "id": f"gen-{response.headers['x-request-id']}",
        "model": "pocket-1b",
        "text": "in the corral",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4},
    }
    expected = ChatRequest(({"role": "user", "content": "where?"},), {"max_tokens": 5, "stop": ["x"]}, 0)
    assert model.requests == [expected]


async def test_messages_go_to_the_model_as_they_are() -> None:
    model = FakeModel()
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "where?"}]},
    ]
    async with client_of(gateway(model)) as client:
        response = await client.post("/generate", json={"model": "pocket-1b", "messages": messages})
    assert response.status_code == 200
    assert list(model.requests[0].messages) == messages


async def test_the_request_id_is_kept_if_sane_and_made_otherwise() -> None:
    async with client_of(gateway(FakeModel())) as client:
        kept = await client.post("/generate", json=ASKED, headers={"x-request-id": "a.b-c_1"})
        made = await client.post("/generate", json=ASKED, headers={"x-request-id": "a b\tc"})
        long = await client.get("/nowhere", headers={"x-request-id": "x" * 129})
    assert kept.headers["x-request-id"] == "a.b-c_1"
    assert len(made.headers["x-request-id"]) == len(long.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PromptTooLong("too long", "prompt"), 400),
        (Overloaded("full", 3), 429),
        (EngineFailed("died"), 502),
        (DeadlineExceeded("late"), 504),
        (RuntimeError("secret"), 500),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_fails_before_the_first_token_has_its_status(error: Exception, status: int, stream: bool) -> None:
    async with client_of(gateway(FakeModel(fails=lambda _: error))) as client:
        response = await client.post("/generate", json={**ASKED, "stream": stream})
    assert response.status_code == status
    assert problem(response)["code"] == getattr(error, "reason", "internal_error")
    assert "secret" not in response.text
    assert response.headers.get("retry-after") == ("3" if status == 429 else None)
    assert response.headers["x-request-id"]


async def test_a_stream_arrives_piece_by_piece() -> None:
    step = asyncio.Semaphore(0)
    call = post(gateway(FakeModel(step=step)), "/generate", {**ASKED, "stream": True})
    step.release()
    headers = dict((await call.start())["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert events(await call.piece()) == [{"text": "in"}]
    assert call.sent.empty()
    step.release()
    assert events(await call.piece()) == [{"text": " the"}]
    step.release()
    rest = b"".join([await call.piece() for _ in range(3)])
    usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    last = {"text": "", "finish_reason": "stop", "usage": usage}
    assert events(rest) == [{"text": " corral"}, last, "data: [DONE]"]
    assert await call.piece() == b""


class Scripted(FakeModel):
    """Streams the given deltas."""

    def __init__(self, *deltas: ChatDelta) -> None:
        super().__init__()
        self.deltas = deltas

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatDelta]:
        for delta in self.deltas:
            yield delta


async def test_the_last_event_has_reason_and_usage_however_the_engine_sends_them() -> None:
    model = Scripted(ChatDelta(), ChatDelta("a"), ChatDelta("b", "length"), ChatDelta(usage=Usage(1, 2)))
    async with client_of(gateway(model)) as client:
        response = await client.post("/generate", json={**ASKED, "stream": True})
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    last = {"text": "", "finish_reason": "length", "usage": usage}
    assert events(response.content) == [{"text": "a"}, {"text": "b"}, last, "data: [DONE]"]


async def test_a_stream_that_just_stops_is_not_taken_for_an_answer() -> None:
    async with client_of(gateway(Scripted(ChatDelta("a")))) as client:
        partial = await client.post("/generate", json={**ASKED, "stream": True})
    async with client_of(gateway(Scripted())) as client:
        nothing = await client.post("/generate", json={**ASKED, "stream": True})
    assert events(partial.content)[1]["error"]["code"] == "engine_failed"
    assert "DONE" not in partial.text
    assert (nothing.status_code, problem(nothing)["code"]) == (502, "engine_failed")


@pytest.mark.parametrize("error", [EngineFailed("died"), ValueError("secret")])
async def test_a_broken_stream_ends_with_an_error_and_without_done(error: Exception) -> None:
    model = FakeModel(fails=lambda _: error, breaks_after=2)
    async with client_of(gateway(model)) as client:
        response = await client.post("/generate", json={**ASKED, "stream": True})
    *pieces, last = events(response.content)
    assert pieces == [{"text": "in"}, {"text": " the"}]
    assert last["error"]["code"] == (error.reason if isinstance(error, ServingError) else "internal_error")
    assert "DONE" not in response.text
    assert "secret" not in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_the_model(stream: bool) -> None:
    model = FakeModel(step=asyncio.Semaphore(1 if stream else 0))
    call = post(gateway(model), "/generate", {**ASKED, "stream": stream})
    await eventually(lambda: model.running == 1 and (not stream or call.sent.qsize() == 2))
    call.leave()
    await asyncio.wait_for(call.task, 1)
    assert (model.cancelled, model.running) == (1, 0)
    assert stream or call.sent.empty()


async def test_closing_a_stream_between_pieces_closes_the_model_s_at_once() -> None:
    model = FakeModel()
    events_of = sse(model, ChatRequest(({"role": "user", "content": "x"},)))
    await anext(events_of)
    assert model.running == 1
    await events_of.aclose()
    assert (model.running, model.cancelled) == (0, 1)


async def test_the_server_s_own_cancellation_is_not_swallowed() -> None:
    model = FakeModel(step=asyncio.Semaphore(0))
    call = post(gateway(model), "/generate", ASKED)
    await eventually(lambda: model.running == 1)
    call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.task
    assert model.cancelled == 1


async def test_the_server_s_cancellation_counts_even_as_the_client_leaves() -> None:
    model = FakeModel(step=asyncio.Semaphore(0))
    call = post(gateway(model), "/generate", ASKED)
    await eventually(lambda: model.running == 1)
    call.leave()
    await asyncio.sleep(0)  # the disconnect is seen, its cancellation not yet delivered
    call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.task


async def test_a_client_that_leaves_after_the_answer_disturbs_nothing() -> None:
    call = post(gateway(FakeModel()), "/generate", ASKED)
    await call.start()
    call.leave()
    await asyncio.wait_for(call.task, 1)
    assert json.loads(await call.piece())["text"] == "in the corral"


async def test_a_failed_model_is_named_with_its_reason_and_not_asked() -> None:
    model = FakeModel()
    herd = FakeHerd(ModelStatus("pocket-1b", ModelState.FAILED, reason="out of memory"))
    async with client_of(gateway(model, herd=herd)) as client:
        response = await client.post("/generate", json=ASKED)
    assert response.status_code == 503
    assert problem(response)["code"] == "model_unavailable"
    assert "failed: out of memory" in problem(response)["message"]
    assert model.requests == []


async def test_a_model_that_does_not_chat_is_a_bad_request() -> None:
    async with client_of(gateway(FakeModel(), base_of={"pocket-1b": "pocket-1b", "embed": "embed"})) as client:
        response = await client.post("/generate", json={**ASKED, "model": "embed"})
    assert response.status_code == 400
    assert problem(response)["param"] == "model"
