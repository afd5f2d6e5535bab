"""Corral's own routes: what is sent to them is what their types take, and what comes is a Sample."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from app.retrieval.wire import RagChatBody
from app.tribunal.wire import TribunalAskBody
from app.wire import BulkItem, BulkRequest, GenerateRequest
from loadtests.client.clock import Clock, Stopwatch
from loadtests.client.exchange import open_session
from loadtests.client.other_kinds import BulkAsker, WholeAsker
from loadtests.client.prompts import Prompt
from loadtests.records import Fault, Kind, Sample
from tests.unit.load_client_fakes import END, Endpoint, chunk, point, raw, serving, side

PROMPT = Prompt("how long may a job run", 7)
USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
ANSWERED = {"result": {"model": "small", "text": "two days", "finish_reason": "stop", "usage": USAGE}}


async def whole(kind: Kind, model: str, reply: Any, status: int = 200) -> tuple[Sample, dict[str, Any], WholeAsker]:
    """The sample, what was asked, and who asked it."""
    asked: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.Response(body=reply if isinstance(reply, bytes) else json.dumps(reply), status=status)

    paths = ("/generate", "/v1/tribunal", "/v1/rag/chat")
    async with serving(Endpoint(handlers=dict.fromkeys(paths, answer))) as url, open_session() as session:
        asker = WholeAsker(session, side(url), point(kind=kind, model=model), 0.5, Stopwatch(Clock()))
        sample = await asker.ask(asker.body(PROMPT))
    return sample, asked[0], asker


async def test_a_single_question() -> None:
    sample, asked, _ = await whole(Kind.SINGLE, "small", {"text": "two days", "usage": USAGE})
    assert GenerateRequest.model_validate(asked).params() == {"max_tokens": 7, "temperature": 0.5}
    assert (sample.ok, sample.input_tokens, sample.output_tokens, sample.ttft_s) == (True, 11, 5, None)


@pytest.mark.parametrize(("model", "name"), [("tribunal", None), ("tribunal/refine", "refine"), ("refine", "refine")])
async def test_a_tribunal(model: str, name: str | None) -> None:
    sample, asked, _ = await whole(Kind.TRIBUNAL, model, {"answer": "two days", "usage": {**USAGE, "calls": 6}})
    taken = TribunalAskBody.model_validate(asked)
    assert (taken.tribunal, taken.max_tokens, taken.question) == (name, 7, PROMPT.text)
    assert (sample.ok, sample.output_tokens) == (True, 5)


@pytest.mark.parametrize("model", ["manual", "rag/manual"])
async def test_documents(model: str) -> None:
    sample, asked, asker = await whole(Kind.RAG, model, {"answer": "two days", "refused": False, "usage": USAGE})
    taken = RagChatBody.model_validate(asked)
    assert (taken.collection, taken.max_tokens, taken.temperature) == ("manual", 7, 0.5)
    assert sample.ok
    assert asker.notices == ()


async def test_answers_that_no_model_gave_are_told() -> None:
    refused = {"answer": "I do not know.", "refused": True, "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    sample, _, asker = await whole(Kind.RAG, "manual", refused)
    assert sample.ok
    assert "1 of 1 answers were refusals" in asker.notices[0]


@pytest.mark.parametrize(
    ("reply", "status", "fault"),
    [
        ({"error": {"message": "the queue is full"}}, 429, Fault.OVERLOAD),
        ({"error": {"message": "no quorum"}}, 503, Fault.SERVER),
        ({"error": {"message": "no such model"}}, 404, Fault.REFUSED),
        ({"text": "", "usage": {"completion_tokens": 0}}, 200, Fault.EMPTY),
        ({"text": 7}, 200, Fault.UNREADABLE),
        ([], 200, Fault.UNREADABLE),
        (b"{", 200, Fault.UNREADABLE),
        (b"[" * 100_000, 200, Fault.UNREADABLE),
    ],
)
async def test_what_is_no_answer_is_a_fault(reply: Any, status: int, fault: Fault) -> None:
    sample, _, _ = await whole(Kind.SINGLE, "small", reply, status)
    assert sample.fault is fault
    assert 0 < len(sample.detail) <= 200


async def test_an_answer_without_usage_has_no_counts() -> None:
    sample, _, _ = await whole(Kind.SINGLE, "small", {"text": "two days", "usage": None})
    assert (sample.ok, sample.input_tokens, sample.output_tokens) == (True, None, None)


async def bulk(url: str, prompts: int) -> list[Sample]:
    async with open_session() as session:
        asker = BulkAsker(session, side(url), point(kind=Kind.BULK), 0.5, Stopwatch(Clock()))
        samples = await asker.ask_all([PROMPT] * prompts)
    assert asker.silent == 0
    return samples


async def test_a_bulk_call_is_one_request_and_every_line_a_sample() -> None:
    asked: list[dict[str, Any]] = []
    errors = [
        {"message": "full", "type": "rate_limit_error", "code": "queue_full"},
        {"message": "late", "type": "server_error", "code": "deadline_exceeded"},
        {"message": "wrong", "type": "invalid_request_error", "code": "invalid_request"},
        {"message": "died", "type": "server_error", "code": "engine_failed"},
        "strange",
    ]
    lines = [{"index": 5, **ANSWERED}, *({"index": number, "error": error} for number, error in enumerate(errors))]

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.Response(body="".join(json.dumps(line) + "\n" for line in lines))

    async with serving(Endpoint(handlers={"/bulk": answer})) as url:
        samples = await bulk(url, 7)
    taken = BulkRequest.model_validate(asked[0])
    assert (len(asked), len(taken.items), taken.stream, taken.defaults.temperature) == (1, 7, True, 0.5)
    assert BulkItem.model_validate({"model": taken.model, **asked[0]["items"][0]}).max_tokens == 7
    assert [each.fault for each in samples] == [
        None, Fault.OVERLOAD, Fault.TIMEOUT, Fault.REFUSED, Fault.SERVER, Fault.SERVER, Fault.BROKEN_STREAM,
    ]  # fmt: skip
    assert [each.detail for each in samples[1:6]] == ["full", "late", "wrong", "died", "strange"]
    assert (samples[0].output_tokens, samples[0].times_s) == (5, ())


async def test_a_bulk_call_that_is_refused_is_every_items_fault() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "items: 1 to 10 are allowed"}}, status=400)

    async with serving(Endpoint(handlers={"/bulk": answer})) as url:
        samples = await bulk(url, 3)
    assert [each.fault for each in samples] == [Fault.REFUSED] * 3
    assert "1 to 10" in samples[0].detail


async def test_a_bulk_call_that_breaks_off_keeps_what_it_had() -> None:
    line = json.dumps(ANSWERED).encode()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with raw(head + chunk(line + b"\n" + line[:20])) as url:
        samples = await bulk(url, 3)
    assert [each.fault for each in samples] == [None, Fault.BROKEN_STREAM, Fault.BROKEN_STREAM]
    async with raw(head + chunk(line + b"\nnonsense\n") + END) as url:
        samples = await bulk(url, 3)
    assert [each.fault for each in samples] == [None, Fault.UNREADABLE, Fault.BROKEN_STREAM]
