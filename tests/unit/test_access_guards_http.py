"""What a key may ask, through the gateway as the edge asks it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.access.guards import GuardedRetrieval, GuardedTribunals
from app.relay import Upstream
from app.services import Services
from app.web import create_app
from deployments.principal import HEADER, SECRET_HEADER, Principal
from deployments.retrieval.index_search import OpenEmbeddings
from deployments.retrieval.local import LocalRetrieval
from deployments.secret import Door
from rag.config import RagConfig
from tests.edge.keyed import odd_headers
from tests.unit.access_fakes import INSIDE, SECRET
from tests.unit.asgi import client_of, problem
from tests.unit.fakes import FakeHerd, FakeModel, FakeTribunals
from tests.unit.rag_ingest import ServedVectors
from tests.unit.retrieval_fakes import OneModel, Scripted
from tests.unit.tribunal_script import RUN, SCRIPT

QUEUES = b"# Queues\n\nThe willow partition has a time limit of 48 hours."


@dataclass
class Desk:
    """A gateway behind an edge: two models, two tribunals, two collections, an embedding model."""

    http: httpx.AsyncClient
    models: dict[str, FakeModel]
    tribunals: FakeTribunals

    async def ask(
        self, scopes: Sequence[str], path: str, body: object = None, method: str = "POST", key: str = "aaaaaaaa",
        **more: Any,
    ) -> httpx.Response:  # fmt: skip
        """As the edge asks for a key with these scopes."""
        told = {**INSIDE, HEADER: Principal(key, scopes=tuple(scopes)).to_header(), **more.pop("headers", {})}
        return await self.http.request(method, path, json=body, headers=told, **more)

    async def get(self, scopes: Sequence[str], path: str, **more: Any) -> httpx.Response:
        return await self.ask(scopes, path, method="GET", **more)


def upstream() -> httpx.AsyncClient:
    """Models that answer with their own name."""

    async def answer(request: Request) -> Response:
        return JSONResponse({"by": request.path_params["base"]})

    app = Starlette(routes=[Route("/models/{base}/{path:path}", answer, methods=["GET", "POST"])])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://serve")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    config = RagConfig.model_validate({"folder": str(tmp_path / "rag"), "embedding": {"model": "words"}})
    vectors = cast(OpenEmbeddings, lambda _: ServedVectors())
    retrieval = LocalRetrieval(config, OneModel(Scripted("48 hours [1].")), "llama", open_embeddings=vectors)
    models, tribunals = {name: FakeModel(name) for name in ("llama", "qwen")}, FakeTribunals(kept={RUN: SCRIPT})
    services = Services(
        dict(models), {name: name for name in models}, FakeHerd.ready(*models), Upstream(upstream()),
        tribunals=GuardedTribunals(tribunals), retrieval=GuardedRetrieval(retrieval), embedder="words",
        incoming=tmp_path / "incoming",
    )  # fmt: skip
    async with client_of(create_app(services, door=Door(SECRET))) as http:
        for name in ("handbook", "notes"):
            put = await http.post(f"/v1/rag/collections/{name}/documents", files=PART, headers=INSIDE)
            assert put.status_code == 200, put.text
        yield Desk(http, models, tribunals)
    retrieval.close()


PART = [("file", ("queues.md", QUEUES))]
MESSAGES = [{"role": "user", "content": "hi"}]
PROMPT = {"model": "llama", "prompt": "hi"}


def refused(response: httpx.Response, scope: str, param: str | None) -> None:
    assert response.status_code == 403, response.text
    told = {"message": f"This API key may not do this; it needs the scope {scope}.", "type": "invalid_request_error"}
    assert problem(response) == {**told, "param": param, "code": "not_allowed"}


@pytest.mark.parametrize("given", [{}, {SECRET_HEADER: "wrong"}, {SECRET_HEADER: SECRET.upper()}])
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/ready", "/v1/rag/collections", "/nothing"])
async def test_who_did_not_come_through_the_edge_is_refused(desk: Desk, path: str, given: dict[str, str]) -> None:
    answer = await desk.http.get(path, headers={HEADER: Principal().to_header(), **given})
    assert (answer.status_code, problem(answer)["code"]) == (401, "not_from_edge")
    assert answer.headers["x-request-id"]


async def test_the_service_itself_may_do_everything(desk: Desk) -> None:
    for path in ("/v1/models", "/metrics", "/ready", "/v1/rag/collections"):
        assert (await desk.http.get(path, headers=INSIDE)).status_code == 200
    assert (await desk.http.post("/generate", json=PROMPT, headers=INSIDE)).status_code == 200


@pytest.mark.parametrize(
    ("scopes", "seen"),
    [
        (["models"], ["llama", "qwen", "words"]),
        (["models:qwen"], ["qwen"]),
        (["tribunal:quick"], ["tribunal/quick"]),
        (["tribunal", "models:llama"], ["llama", "tribunal", "tribunal/quick"]),
        (["rag:notes"], ["rag/notes"]),
        (["documents:notes"], []),
        (["metrics"], []),
        (["admin"], ["llama", "qwen", "words", "tribunal", "tribunal/quick", "rag/handbook", "rag/notes"]),
    ],
)
async def test_a_key_sees_the_models_that_it_may_ask(desk: Desk, scopes: list[str], seen: list[str]) -> None:
    assert [card["id"] for card in (await desk.get(scopes, "/v1/models")).json()["data"]] == seen


@pytest.mark.parametrize(
    ("scopes", "model", "lacks"),
    [
        (["models:llama"], "llama", None),
        (["models:llama"], "qwen", "models:qwen"),
        (["tribunal", "rag"], "llama", "models:llama"),
        (["tribunal:quick"], "tribunal/quick", None),
        (["models", "tribunal:quick"], "tribunal", "tribunal:default"),
        (["rag:handbook"], "rag/handbook", None),
        (["models", "rag:handbook"], "rag/notes", "rag:notes"),
    ],
)
async def test_chat_takes_the_model_s_scope(desk: Desk, scopes: list[str], model: str, lacks: str | None) -> None:
    answer = await desk.ask(scopes, "/v1/chat/completions", {"model": model, "messages": MESSAGES})
    if lacks is None:
        assert answer.status_code == 200, answer.text
    else:
        assert (answer.status_code, problem(answer)["code"]) == (403, "not_allowed")
        assert f"the scope {lacks}." in problem(answer)["message"]
        assert desk.tribunals.asks == []


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/anything", "/tokenize"])
async def test_every_path_of_a_model_takes_its_scope(desk: Desk, path: str) -> None:
    body = {"model": "llama", "input": "x", "prompt": "x"}
    assert (await desk.ask(["models:llama"], path, body)).json() == {"by": "llama"}
    refused(await desk.ask(["models:qwen"], path, body), "models:llama", "model")


async def test_the_embedding_model_takes_its_scope(desk: Desk) -> None:
    body = {"model": "words", "input": "x"}
    assert (await desk.ask(["models:words"], "/v1/embeddings", body)).status_code == 200
    refused(await desk.ask(["models:llama", "rag"], "/v1/embeddings", body), "models:words", "model")


async def test_a_stored_response_is_looked_for_where_the_key_may_ask(desk: Desk) -> None:
    assert (await desk.get(["models:qwen"], "/v1/responses/resp_1")).json() == {"by": "qwen"}
    refused(await desk.get(["models:qwen"], "/v1/responses/resp_1?model=llama"), "models:llama", "model")


@pytest.mark.parametrize("stream", [True, False])
async def test_generate_takes_the_model_s_scope(desk: Desk, stream: bool) -> None:
    assert (await desk.ask(["models:llama"], "/generate", {**PROMPT, "stream": stream})).status_code == 200
    refused(await desk.ask(["models:qwen"], "/generate", {**PROMPT, "stream": stream}), "models:llama", "model")
    assert len(desk.models["llama"].requests) == 1


async def test_of_a_bulk_call_only_the_items_that_are_not_allowed_fail(desk: Desk) -> None:
    asked = ("llama", "qwen", "tribunal/quick", "rag/notes", "llama")
    body = {"items": [{"prompt": "hi", "model": model} for model in asked]}
    answer = await desk.ask(["models:llama", "rag:notes"], "/bulk", body)
    assert answer.status_code == 200
    found = [(each.get("error") or {}).get("code") for each in answer.json()["items"]]
    assert found[0] == found[4] is None
    assert found[1] == "not_allowed"
    assert [len(model.requests) for model in desk.models.values()] == [2, 0]
    message = answer.json()["items"][1]["error"]["message"]
    assert message == "This API key may not do this; it needs the scope models:qwen."
    assert (found[2], desk.tribunals.asks, found[3]) == ("not_allowed", [], None)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_tribunal_over_http_takes_its_scope(desk: Desk, stream: bool) -> None:
    body = {"question": "where?", "stream": stream}
    assert (await desk.ask(["tribunal:default"], "/v1/tribunal", body)).status_code == 200
    refused(await desk.ask(["tribunal:quick"], "/v1/tribunal", body), "tribunal:default", "tribunal")
    own = {**body, "config": {"members": ["llama", "qwen"]}}
    assert (await desk.ask(["models", "tribunal:quick"], "/v1/tribunal", own)).status_code == 200
    refused(await desk.ask(["models:llama", "tribunal"], "/v1/tribunal", own), "models:qwen", "config")
    other = {**body, "tribunal": "quick", "config": {"chair": {"model": "qwen"}}}
    refused(await desk.ask(["tribunal"], "/v1/tribunal", other), "models:qwen", "config")
    assert len(desk.tribunals.asks) == 2


@pytest.mark.parametrize("config", [{"members": None}, {"members": 5}, {"members": [5]}, {"chair": 5}])
async def test_a_damaged_configuration_is_no_fault_of_ours(desk: Desk, config: dict[str, Any]) -> None:
    answer = await desk.ask(["models"], "/v1/tribunal", {"question": "where?", "config": config})
    assert answer.status_code == 200  # these tribunals take everything


async def test_documents_over_http_take_their_scope(desk: Desk) -> None:
    path = "/v1/rag/collections/handbook"
    search = {"query": "willow", "collection": "handbook"}
    chat = {"question": "willow?", "collection": "handbook"}
    for scopes, lacks in ((["rag:handbook"], None), (["documents:handbook", "rag:notes"], "rag:handbook")):
        for asked, body in (("/v1/rag/search", search), ("/v1/rag/chat", chat)):
            answer = await desk.ask(scopes, asked, body)
            if lacks:
                refused(answer, lacks, "collection")
            else:
                assert answer.status_code == 200
    refused(await desk.ask(["rag"], f"{path}/documents", files=PART), "documents:handbook", "collection")
    refused(await desk.ask(["rag"], path, method="DELETE"), "documents:handbook", "collection")
    refused(await desk.ask(["rag"], f"{path}/documents/queues.md", method="DELETE"), "documents:handbook", "collection")
    assert (await desk.get(["rag:handbook"], f"{path}/documents")).json()["data"]
    refused(await desk.get(["rag:notes"], path), "rag:handbook or documents:handbook", "collection")
    names = [card["name"] for card in (await desk.get(["rag:notes"], "/v1/rag/collections")).json()["data"]]
    assert names == ["notes"]
    may = ["documents:handbook"]
    assert (await desk.ask(may, f"{path}/documents", files=PART)).status_code == 200
    assert (await desk.ask(may, f"{path}/documents/queues.md", method="DELETE")).status_code == 204
    assert (await desk.ask(may, path, method="DELETE")).status_code == 204


async def test_an_answer_from_documents_by_a_model_of_choice_takes_both_scopes(desk: Desk) -> None:
    chat = {"question": "willow?", "collection": "handbook", "model": "llama"}
    refused(await desk.ask(["rag"], "/v1/rag/chat", chat), "models:llama", "model")
    assert (await desk.ask(["rag", "models:llama"], "/v1/rag/chat", chat)).status_code == 200


async def test_sessions_are_the_key_s_and_stay_when_it_is_rotated(desk: Desk) -> None:
    before, after = ({"authorization": f"Bearer corral-aaaaaaaa-{text * 48}"} for text in "01")
    chat = {"question": "willow?", "collection": "handbook", "session": "new"}
    answer = await desk.ask(["rag"], "/v1/rag/chat", chat, headers=before)
    session = answer.json()["session"]
    place = f"/v1/rag/sessions/{session}"

    async def seen(key: str, headers: dict[str, str]) -> list[str]:
        told = (await desk.get(["rag"], "/v1/rag/sessions", key=key, headers=headers)).json()["data"]
        return [each["id"] for each in told]

    assert await seen("aaaaaaaa", before) == await seen("aaaaaaaa", after) == await seen("aaaaaaaa", {}) == [session]
    assert await seen("bbbbbbbb", before) == await seen("", before) == []
    more = {**chat, "session": session}
    for method, path, body in (("GET", place, None), ("DELETE", place, None), ("POST", "/v1/rag/chat", more)):
        stranger = await desk.ask(["rag"], path, body, method, key="bbbbbbbb", headers=before)
        assert (stranger.status_code, problem(stranger)["code"]) == (404, "session_not_found")
    assert (await desk.ask(["rag"], "/v1/rag/chat", more, headers=after)).status_code == 200
    assert (await desk.ask(["rag"], place, method="DELETE", headers=after)).status_code == 204
    assert await seen("aaaaaaaa", before) == []


async def test_the_gateway_logs_no_key(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    text = f"corral-aaaaaaaa-{'0123456789ab' * 4}"
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("corral.gateway").warning("something is logged")
        for headers in odd_headers(text):
            answer = await desk.ask(["models"], "/v1/chat/completions", {"model": "none"}, headers=headers)
            assert text not in answer.text
    assert "something is logged" in caplog.text
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith(("corral", "app")))
    assert "0123456789ab" not in ours.lower()
