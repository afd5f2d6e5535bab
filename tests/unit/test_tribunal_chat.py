"""Tribunals as virtual models in /v1/chat/completions: OpenAI's shapes, whole and streamed."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from openai import AsyncOpenAI, BadRequestError
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from app.services import Limits
from deployments.errors import BadRequest, EngineFailed, NotReady, Overloaded
from deployments.tribunal.service import TribunalAsk
from tests.unit.asgi import client_of, post, problem
from tests.unit.fakes import FakeTribunals
from tests.unit.tribunal_events import chunks, over
from tests.unit.tribunal_script import ANSWER, FAILING, SCRIPT, TRACE
from tests.waiting import eventually

CHAT = "/v1/chat/completions"
QUESTION = {"role": "user", "content": "where?"}
ASKED: dict[str, Any] = {"model": "tribunal", "messages": [QUESTION]}
USAGE = {"prompt_tokens": 100, "completion_tokens": 31, "total_tokens": 131}


@pytest.mark.parametrize(("model", "name"), [("tribunal", "default"), ("tribunal/quick", "quick")])
async def test_a_chat_completion_has_openai_s_shape_and_the_trace_as_reasoning(model: str, name: str) -> None:
    tribunals = FakeTribunals()
    async with client_of(over(tribunals)) as client:
        response = await client.post(CHAT, json={**ASKED, "model": model, "max_tokens": 9, "stream": False})
    found = response.json()
    assert ChatCompletion.model_validate(found, strict=True).choices[0].message.content == ANSWER
    assert found.pop("created") > 1_700_000_000
    assert found == {
        "id": f"chatcmpl-{response.headers['x-request-id']}",
        "object": "chat.completion",
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": ANSWER, "reasoning_content": TRACE},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": USAGE,
    }
    assert tribunals.asks == [TribunalAsk((QUESTION,), name, max_tokens=9)]


async def test_a_stream_is_role_reasoning_text_reason_usage_and_done() -> None:
    body = {**ASKED, "stream": True, "stream_options": {"include_usage": True}}
    async with client_of(over(FakeTribunals())) as client:
        response = await client.post(CHAT, json=body)
    *found, done = chunks(response.content)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert done == "data: [DONE]"
    assert all(ChatCompletionChunk.model_validate(chunk) for chunk in found)
    assert {(chunk["id"], chunk["model"]) for chunk in found} == {(found[0]["id"], "tribunal")}
    role, *middle, last, usage = found
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    kinds = [set(chunk["choices"][0]["delta"]) for chunk in middle]
    assert kinds == sorted(kinds, key=lambda kind: kind == {"content"})
    assert "".join(chunk["choices"][0]["delta"].get("reasoning_content", "") for chunk in middle) == TRACE
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in middle) == ANSWER
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": None}]
    assert (usage["choices"], usage["usage"]) == ([], USAGE)


async def test_usage_is_streamed_only_if_asked_for() -> None:
    async with client_of(over(FakeTribunals())) as client:
        for more in ({}, {"stream_options": None}, {"stream_options": {"include_usage": False}}):
            response = await client.post(CHAT, json={**ASKED, "stream": True, **more})
            assert "usage" not in response.text
            assert chunks(response.content)[-2]["choices"][0]["finish_reason"] == "stop"


async def test_openai_s_own_client_asks_a_tribunal() -> None:
    async with client_of(over(FakeTribunals())) as http:
        client = AsyncOpenAI(base_url="http://gateway/v1", api_key="none", http_client=cast(Any, http), max_retries=0)
        messages: Any = ASKED["messages"]
        whole = await client.chat.completions.create(model="tribunal/quick", messages=messages, temperature=0.2)
        stream = await client.chat.completions.create(model="tribunal", messages=messages, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        card = await client.models.retrieve("tribunal/quick")
        with pytest.raises(BadRequestError) as refused:
            await client.chat.completions.create(model="tribunal", messages=messages, stop=["x"])
    assert whole.choices[0].message.content == "".join(pieces) == ANSWER
    assert whole.choices[0].message.model_extra == {"reasoning_content": TRACE}
    assert card.id == "tribunal/quick"
    assert refused.value.param == "stop"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"messages": None}, "messages"),
        ({"messages": "where?"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"seed": 10**30}, "seed"),
        ({"priority": 5}, "priority"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_tribunal_does_not_take_is_named(more: dict[str, Any], param: str, stream: bool) -> None:
    tribunals = FakeTribunals()
    async with client_of(over(tribunals)) as client:
        response = await client.post(CHAT, json={**ASKED, "stream": stream, **more})
    assert (response.status_code, problem(response)["param"]) == (400, param)
    assert tribunals.asks == []


@pytest.mark.parametrize("model", ["tribunal/zebra", "tribunal/", "tribunal/a/b"])
async def test_an_unknown_tribunal_is_404_with_all_ids(model: str) -> None:
    async with client_of(over(FakeTribunals())) as client:
        for path in (CHAT, "/generate", "/v1/embeddings"):
            response = await client.post(path, json={"model": model, "messages": [QUESTION]})
            assert (response.status_code, problem(response)["param"]) == (404, "model")
            assert "Models here: a, tribunal, tribunal/quick." in problem(response)["message"]


@pytest.mark.parametrize(
    "path",
    ["/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/v1/rerank", "/tokenize", "/detokenize"],
)
async def test_other_paths_are_not_for_tribunals(path: str) -> None:
    async with client_of(over(FakeTribunals())) as client:
        response = await client.post(path, json=ASKED)
        stored = await client.get("/v1/responses/resp_1?model=tribunal")
    assert (response.status_code, problem(response)["param"]) == (400, "model")
    assert "/v1/chat/completions and /v1/tribunal" in problem(response)["message"]
    assert (stored.status_code, problem(stored)["param"]) == (400, "model")


@pytest.mark.parametrize(
    ("error", "status"), [(NotReady("not yet", "chair"), 409), (Overloaded("full", 3), 429), (KeyError("secret"), 500)]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_fails_before_the_first_piece_has_its_status(error: Exception, status: int, stream: bool) -> None:
    async with client_of(over(FakeTribunals(refuses=error))) as client:
        response = await client.post(CHAT, json={**ASKED, "stream": stream})
    assert response.status_code == status
    problem(response)
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("script", "code"), [(FAILING, "no_quorum"), ([*SCRIPT[:6], EngineFailed("died")], "engine_failed")]
)
async def test_what_fails_later_is_the_last_event_without_done(script: Any, code: str) -> None:
    async with client_of(over(FakeTribunals(script=script))) as client:
        response = await client.post(CHAT, json={**ASKED, "stream": True})
    *before, last = chunks(response.content)
    assert (response.status_code, last["error"]["code"]) == (200, code)
    assert before
    assert "[DONE]" not in response.text


async def test_an_answer_that_is_replaced_after_its_beginning_ends_with_an_error() -> None:
    begun = next(index for index, told in enumerate(SCRIPT) if told["type"] == "answer.delta") + 1
    script = [*SCRIPT[:begun], {**SCRIPT[begun], "text": "On the hill.", "replaces": True}, *SCRIPT[begun + 1 :]]
    async with client_of(over(FakeTribunals(script=script))) as client:
        response = await client.post(CHAT, json={**ASKED, "stream": True})
    *before, last = chunks(response.content)
    assert last["error"] == {
        "message": "The chair broke off while it wrote the answer; ask again.",
        "type": "server_error",
        "param": None,
        "code": "engine_failed",
    }
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in before) == "In the corral,"
    assert "[DONE]" not in response.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("more", "error", "param"),
    [
        ({"temperature": 0}, BadRequest("config: temperature: at 0 all samples are the same", "config"), "temperature"),
        ({}, NotReady("The chair does not answer.", "config.chair"), "model"),
    ],
)
async def test_an_error_names_a_field_of_the_chat_request(
    more: dict[str, Any], error: BadRequest | NotReady, param: str, stream: bool
) -> None:
    async with client_of(over(FakeTribunals(refuses=error))) as client:
        response = await client.post(CHAT, json={**ASKED, "stream": stream, **more})
    assert (problem(response)["code"], problem(response)["param"]) == (error.reason, param)


async def test_a_budget_of_tokens_reaches_the_tribunal() -> None:
    tribunals = FakeTribunals()
    async with client_of(over(tribunals)) as client:
        taken = await client.post(CHAT, json={**ASKED, "budget_tokens": 900})
        refused = await client.post(CHAT, json={**ASKED, "budget_tokens": 0})
    assert taken.status_code == 200
    assert tribunals.asks == [TribunalAsk((QUESTION,), "default", budget_tokens=900)]
    assert (refused.status_code, problem(refused)["param"]) == (400, "budget_tokens")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_tribunal(stream: bool) -> None:
    tribunals = FakeTribunals(step=asyncio.Semaphore(5 if stream else 0))
    call = post(over(tribunals), CHAT, {**ASKED, "stream": stream})
    await eventually(lambda: tribunals.running == 1 and (not stream or call.sent.qsize() == 3))
    call.leave()
    await asyncio.wait_for(call.task, 1)
    assert (tribunals.running, tribunals.cancelled) == (0, 1)


async def test_a_silent_stream_says_that_it_is_alive() -> None:
    tribunals = FakeTribunals(step=asyncio.Semaphore(0))
    call = post(over(tribunals, limits=Limits(alive_s=0.005)), CHAT, {**ASKED, "stream": True})
    await call.start()
    assert [await call.piece() for _ in range(2)] == [b": alive\n\n"] * 2
    call.leave()
    await asyncio.wait_for(call.task, 1)
    assert tribunals.cancelled == 1
