"""/v1/tribunal and /v1/rag, asked anything: real tribunals and a real index give an answer or a 4xx."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.body import validate
from app.retrieval.wire import RagChatBody, RagSearchBody
from app.tribunal.wire import TribunalAskBody
from deployments.errors import BadRequest
from deployments.retrieval.index_search import OpenEmbeddings
from deployments.retrieval.local import LocalRetrieval
from deployments.retrieval.service import Upload
from rag.config import RagConfig
from tests.unit.asgi import client_of, gateway, problem
from tests.unit.fakes import FakeModel
from tests.unit.mutations import LEAVES, VALUES, changed
from tests.unit.rag_ingest import ServedVectors
from tests.unit.retrieval_fakes import OneModel, Scripted
from tests.unit.tribunal_fakes import tribunals_over, trio

FUZZED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = {"content-type": "application/json"}
TRIBUNAL, CHAT, SEARCH = "/v1/tribunal", "/v1/rag/chat", "/v1/rag/search"
QUESTION = "What is the time limit of the willow partition?"
MESSAGES = [
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
]
FILTERS = {"source": {"prefix": "q"}, "page": {"gte": 1, "lt": 9, "ne": 5}, "year": [2025, 2026], "title": "Queues"}
LOOKING = {"collection": "handbook", "top_k": 3, "mode": "fused", "filters": FILTERS, "rerank": False}
CONFIG = {
    "strategy": "council", "members": ["a", {"model": "b", "name": "B", "role": "a sceptic"}], "chair": "c",
    "rounds": 1, "rubric": {"accuracy": 3.0}, "review": "apart", "quorum": 1, "max_tokens": 64,
    "stop": {"consensus": 0.6, "leader": True, "budget_tokens": 9000, "deadline_s": 60, "patience_s": 5},
}  # fmt: skip
BODIES: list[tuple[str, dict[str, Any]]] = [
    (TRIBUNAL, {"question": QUESTION, "config": CONFIG, "max_tokens": 32, "seed": 1, "resume_s": 0}),
    (TRIBUNAL, {"messages": MESSAGES, "tribunal": "default", "config": {"rounds": 2}, "stream": True}),
    (CHAT, {"question": QUESTION, **LOOKING, "messages": MESSAGES, "max_tokens": 64, "temperature": 0.5, "seed": 1}),
    (CHAT, {"question": QUESTION, "collection": "handbook", "session": "new", "model": "llama", "stream": True}),
    (SEARCH, {"query": QUESTION, **LOOKING, "mmr_lambda": 0.5}),
]
WORDS = st.sampled_from(["handbook", "llama", "bm25", "dense", "a", "tribunal", "best_of_n", "refine", "new", QUESTION])
CHANGED = st.sampled_from(BODIES).flatmap(
    lambda asked: st.tuples(st.just(asked[0]), changed(asked[1], VALUES | LEAVES | WORDS))
)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Of a gateway with three models that sit in a tribunal, and a collection of one document."""
    config = RagConfig.model_validate({"folder": str(tmp_path / "rag"), "embedding": {"model": "words"}})
    model = OneModel(Scripted("It is 48 hours [1]. And [9]."))
    retrieval = LocalRetrieval(config, model, "llama", open_embeddings=cast(OpenEmbeddings, lambda _: ServedVectors()))
    document = tmp_path / "queues.md"
    document.write_text("# Queues\n\nThe willow partition has a time limit of 48 hours.\n")
    await retrieval.ingest("handbook", [Upload(str(document), "queues.md", {"year": 2026})])
    app = gateway(FakeModel("llama"), tribunals=tribunals_over(trio()), retrieval=retrieval)
    async with client_of(app) as client:
        yield client
    retrieval.close()


async def asked(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    response = await client.post(path, content=body, headers=JSON)
    assert response.status_code in (200, 400, 404, 409, 429, 502, 503, 504), response.text
    assert "internal_error" not in response.text
    if response.status_code != 200:
        problem(response)


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_what_is_changed_here_is_answered_as_it_is(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert '"error"' not in response.text


@FUZZED
@given(CHANGED)
@example((SEARCH, {**BODIES[-1][1], "filters": {"year": {"gte": (1 << 64) - 1}}}))
@example((SEARCH, {**BODIES[-1][1], "filters": {"page": {"gte": 1e308, "ne": -(1 << 63)}}}))
async def test_a_changed_question_is_answered_or_refused(client: httpx.AsyncClient, question: tuple[str, Any]) -> None:
    path, body = question
    await asked(client, path, json.dumps(body).encode())


@FUZZED
@given(path=st.sampled_from([TRIBUNAL, CHAT, SEARCH]),
       body=st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode()))  # fmt: skip
async def test_anything_else_is_refused(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    response = await client.post(path, content=body, headers=JSON)
    assert response.status_code == 400, response.text
    assert problem(response)["param"]


READ: dict[str, Any] = {TRIBUNAL: TribunalAskBody, CHAT: RagChatBody, SEARCH: RagSearchBody}


@settings(deadline=None, max_examples=200)
@given(CHANGED)
def test_a_question_is_read_as_it_was_written_or_its_field_named(question: tuple[str, Any]) -> None:
    path, body = question
    try:
        read: Any = validate(READ[path], body)
        made = read.to_ask() if path == TRIBUNAL else read.to_ask("ana") if path == CHAT else read.to_search()
    except BadRequest as error:
        assert error.param  # noqa: PT017
        return
    written = read.model_dump(mode="json", exclude_unset=True)
    assert written == body
    assert validate(READ[path], written) == read
    assert made
