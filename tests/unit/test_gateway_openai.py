"""Under /v1: the list of models, and what is passed on to their own vLLM apps, against a small real upstream."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI, Request
from openai import AsyncOpenAI, NotFoundError
from starlette.responses import JSONResponse, PlainTextResponse, Response

from deployments.status import ModelState, ModelStatus
from tests.unit.asgi import client_of, gateway, post, problem
from tests.unit.fakes import FakeHerd, FakeModel
from tests.waiting import eventually

ASKED = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}


def upstream_app() -> FastAPI:
    """Serve with two models' apps under it: echoes what arrives, knows one stored response of b."""
    app = FastAPI()

    @app.api_route("/models/{base}/{path:path}", methods=["GET", "POST", "DELETE"])
    async def answer(base: str, path: str, request: Request) -> Response:
        if path.startswith("v1/responses/"):
            found = base == "b" and "resp_1" in path
            return JSONResponse({"stored_by": base} if found else {"error": {}}, 200 if found else 404)
        seen = {
            "base": base,
            "path": path,
            "query": request.url.query,
            "headers": dict(request.headers),
            "body": (await request.body()).decode(),
        }
        headers = {"x-request-id": request.headers["x-request-id"], "keep-alive": "5", "x-from": base}
        return JSONResponse(seen, int(request.headers.get("x-status", "200")), headers)

    return app


def passing(**more: Any) -> FastAPI:
    return gateway(FakeModel("a"), FakeModel("b"), upstream=httpx.ASGITransport(upstream_app()), **more)


@pytest.mark.parametrize(
    ("path", "arrives_at"),
    [
        ("/v1/chat/completions", "v1/chat/completions"),
        ("/v1/completions", "v1/completions"),
        ("/v1/responses", "v1/responses"),
        ("/v1/messages", "v1/messages"),
        ("/v1/messages/count_tokens", "v1/messages/count_tokens"),
        ("/v1/embeddings", "v1/embeddings"),
        ("/v1/rerank", "v1/rerank"),
        ("/tokenize", "tokenize"),
        ("/detokenize", "detokenize"),
        ("/v1/tokenize", "tokenize"),
        ("/v1/detokenize", "detokenize"),
    ],
)
async def test_the_same_bytes_arrive_at_the_model_s_own_app(path: str, arrives_at: str) -> None:
    body = b'{ "odd":  "spacing",  "model":"b" }'
    async with client_of(passing()) as client:
        response = await client.post(f"{path}?q=1%20x", content=body, headers={"content-type": "application/json"})
    seen = response.json()
    assert (response.status_code, seen["base"], seen["path"]) == (200, "b", arrives_at)
    assert (seen["query"], seen["body"]) == ("q=1%20x", body.decode())


async def test_an_adapter_is_passed_on_to_its_base() -> None:
    async with client_of(passing(base_of={"a": "a", "tuned": "a"})) as client:
        seen = (await client.post("/v1/chat/completions", json={**ASKED, "model": "tuned"})).json()
    assert seen["base"] == "a"
    assert json.loads(seen["body"])["model"] == "tuned"


async def test_end_to_end_headers_pass_and_those_of_a_connection_do_not() -> None:
    headers = {
        "authorization": "Bearer key",
        "connection": "keep-alive, x-private",
        "x-private": "1",
        "te": "trailers",
        "x-request-id": "mine",
        "x-status": "418",
    }
    async with client_of(passing()) as client:
        del client.headers["accept-encoding"]
        response = await client.post("/v1/chat/completions", json=ASKED, headers=headers)
    seen = response.json()["headers"]
    assert (seen["authorization"], seen["x-request-id"], seen["accept-encoding"]) == ("Bearer key", "mine", "identity")
    assert {"x-private", "te"}.isdisjoint(seen)
    assert seen["host"] == "serve"
    assert response.status_code == 418
    assert response.headers.get_list("x-request-id") == ["mine"]
    assert response.headers["x-from"] == "a"
    assert "keep-alive" not in response.headers


@pytest.mark.parametrize(
    ("body", "wrong"), [({}, None), ({"model": 7}, 7), ({"model": ""}, ""), ({"model": None}, None)]
)
async def test_a_model_must_be_named_even_if_there_is_one_only(body: dict[str, Any], wrong: object) -> None:
    async with client_of(gateway(FakeModel("a"))) as client:
        response = await client.post("/v1/chat/completions", json=body)
    assert (response.status_code, problem(response)["param"]) == (400, "model")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/%2e%2e/%2e%2e/b/v1/x",
        "/v1/a/%2e/b",
        "/v1/a//b",
        "/v1/",
        "/v1/a%20b",
        "/v1/%252e%252e/x",
        "/v1/a%3Fb",
        "/v1/..;",
    ],
)
async def test_no_path_leads_out_of_the_model_s_app(path: str) -> None:
    arrived: list[httpx.URL] = []
    app = gateway(FakeModel("a"), upstream=httpx.MockTransport(lambda request: arrived.append(request.url) or OK))  # type: ignore[func-returns-value]
    async with client_of(app) as client:
        response = await client.post(path, json=ASKED)
    assert response.status_code in (404, 405)
    problem(response)
    assert arrived == []


OK = httpx.Response(200, json={})


@pytest.mark.parametrize("state", [ModelState.FAILED, ModelState.STOPPING])
async def test_a_model_that_does_not_answer_is_503_with_its_state_and_reason(state: ModelState) -> None:
    herd = FakeHerd(ModelStatus("a", state, reason="no GPU"), ModelStatus("b", ModelState.READY))
    async with client_of(passing(herd=herd)) as client:
        refused = await client.post("/v1/chat/completions", json=ASKED)
        fine = await client.post("/v1/chat/completions", json={**ASKED, "model": "b"})
    assert (refused.status_code, fine.status_code) == (503, 200)
    assert problem(refused)["code"] == "model_unavailable"
    assert f"{state.value}: no GPU" in problem(refused)["message"]


@pytest.mark.parametrize("state", [ModelState.STARTING, ModelState.IDLE])
async def test_a_model_that_will_answer_is_asked(state: ModelState) -> None:
    async with client_of(passing(herd=FakeHerd(ModelStatus("a", state)))) as client:
        assert (await client.post("/v1/chat/completions", json=ASKED)).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (httpx.ConnectError("x"), 503, "model_unavailable"),
        (httpx.ConnectTimeout("x"), 503, "model_unavailable"),
        (httpx.PoolTimeout("x"), 429, "queue_full"),
        (httpx.ReadTimeout("x"), 502, "engine_failed"),
        (httpx.RemoteProtocolError("x"), 502, "engine_failed"),
    ],
)
async def test_an_upstream_that_cannot_be_reached(error: Exception, status: int, code: str) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    async with client_of(gateway(FakeModel("a"), upstream=httpx.MockTransport(fail))) as client:
        response = await client.post("/v1/chat/completions", json=ASKED)
    assert (response.status_code, problem(response)["code"]) == (status, code)


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (PlainTextResponse("Path '/models/a' not found", 404), 503, "model_unavailable"),
        (Response("<html>", 503, media_type="text/html"), 503, "model_unavailable"),
        (PlainTextResponse("busy", 429, headers={"retry-after": "9"}), 429, "queue_full"),
        (PlainTextResponse("Internal Server Error", 500), 502, "engine_failed"),
        (PlainTextResponse("?", 418), 400, "invalid_request"),
    ],
)
async def test_an_error_from_between_gateway_and_model_gets_openai_s_shape(
    answer: Response, status: int, code: str
) -> None:
    async with client_of(gateway(FakeModel("a"), upstream=httpx.ASGITransport(answer))) as client:
        response = await client.post("/v1/chat/completions", json=ASKED)
    assert (response.status_code, problem(response)["code"]) == (status, code)
    assert response.headers.get("retry-after") == ("9" if status == 429 else None)


async def test_a_compressed_answer_stays_compressed() -> None:
    packed = gzip.compress(b'{"long": "answer"}')
    answer = Response(packed, headers={"content-encoding": "gzip"}, media_type="application/json")
    async with client_of(gateway(FakeModel("a"), upstream=httpx.ASGITransport(answer))) as client:
        response = await client.post("/v1/chat/completions", json=ASKED)
    assert (response.json(), response.headers["content-length"]) == ({"long": "answer"}, str(len(packed)))


async def test_vllm_s_own_error_passes_as_it_is() -> None:
    answer = JSONResponse({"error": {"message": "from vLLM"}}, 404)
    async with client_of(gateway(FakeModel("a"), upstream=httpx.ASGITransport(answer))) as client:
        response = await client.post("/v1/chat/completions", json=ASKED)
    assert (response.status_code, response.json()) == (404, {"error": {"message": "from vLLM"}})


class Tap(httpx.AsyncBaseTransport):
    """An upstream that streams what the test puts in; an exception breaks it off."""

    def __init__(self, content_type: str = "text/event-stream") -> None:
        self.pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.headers = {"content-type": content_type}
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=self.headers, stream=_Stream(self))


class _Stream(httpx.AsyncByteStream):
    def __init__(self, tap: Tap) -> None:
        self.tap = tap

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self.tap.pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def aclose(self) -> None:
        await asyncio.sleep(0)  # as of a real connection, so that a second cancellation would show
        self.tap.closed = True


async def test_a_stream_passes_piece_by_piece() -> None:
    tap = Tap()
    call = post(gateway(FakeModel("a"), upstream=tap), "/v1/chat/completions", {**ASKED, "stream": True})
    assert dict((await call.start())["headers"])[b"content-type"] == b"text/event-stream"
    for piece in (b"data: 1\n\n", b"data: 2\n\n"):
        assert call.sent.empty()
        tap.pieces.put_nowait(piece)
        assert await call.piece() == piece
    tap.pieces.put_nowait(None)
    assert await call.piece() == b""
    await call.task
    assert tap.closed


async def test_a_client_that_leaves_cancels_upstream() -> None:
    tap = Tap()
    call = post(gateway(FakeModel("a"), upstream=tap), "/v1/chat/completions", {**ASKED, "stream": True})
    await call.start()
    call.leave()
    await asyncio.wait_for(call.task, 1)
    assert tap.closed


async def test_a_client_that_leaves_before_the_answer_begins_cancels_upstream() -> None:
    ended = asyncio.Event()
    asked = asyncio.Event()

    async def hang(_: httpx.Request) -> httpx.Response:
        asked.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return OK

    call = post(gateway(FakeModel("a"), upstream=httpx.MockTransport(hang)), "/v1/chat/completions", ASKED)
    await asyncio.wait_for(asked.wait(), 1)
    call.leave()
    await asyncio.wait_for(call.task, 1)
    assert ended.is_set()


async def test_a_stream_that_breaks_off_ends_with_an_error_event_and_without_done() -> None:
    tap = Tap()
    call = post(gateway(FakeModel("a"), upstream=tap), "/v1/chat/completions", {**ASKED, "stream": True})
    tap.pieces.put_nowait(b'data: {"hal')
    tap.pieces.put_nowait(httpx.ReadError("gone"))
    await call.start()
    await call.piece()
    last = await call.piece()
    assert json.loads(last.removeprefix(b"\n\ndata: "))["error"]["code"] == "engine_failed"
    assert await call.piece() == b""


async def test_another_answer_that_breaks_off_is_cut_and_not_ended() -> None:
    tap = Tap("application/json")
    call = post(gateway(FakeModel("a"), upstream=tap), "/v1/chat/completions", ASKED)
    tap.pieces.put_nowait(b"{")
    tap.pieces.put_nowait(httpx.ReadError("gone"))
    with pytest.raises(httpx.ReadError):
        await asyncio.wait_for(call.task, 1)
    assert call.sent.qsize() == 2


# Stored responses: the id names no model.


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel")])
async def test_a_stored_response_is_found_wherever_it_is(method: str, path: str) -> None:
    async with client_of(passing()) as client:
        found = await client.request(method, f"/v1/responses/resp_1{path}")
        missing = await client.request(method, f"/v1/responses/resp_2{path}")
        elsewhere = await client.request(method, f"/v1/responses/resp_1{path}?model=a")
        unknown = await client.request(method, f"/v1/responses/resp_1{path}?model=zebra")
    assert found.json() == {"stored_by": "b"}
    assert (missing.status_code, elsewhere.status_code, unknown.status_code) == (404, 404, 404)
    assert problem(missing)["code"] == "not_found"
    assert problem(unknown)["code"] == "model_not_found"


async def test_a_failed_or_sleeping_model_is_not_asked_and_an_unreachable_one_not_taken_for_an_answer() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        base = request.url.path.split("/")[2]
        asked.append(base)
        if base == "b":
            raise httpx.ConnectError("refused")
        status = 200 if base == "c" and "resp_1" in request.url.path else 404
        return httpx.Response(status, stream=httpx.ByteStream(json.dumps({"by": base}).encode()))

    ready = [ModelStatus(model, ModelState.READY, 1) for model in "bcd"]
    herd = FakeHerd(ModelStatus("a", ModelState.FAILED), ModelStatus("e", ModelState.IDLE), *ready)
    models = [FakeModel(model) for model in "abcde"]
    async with client_of(gateway(*models, herd=herd, upstream=httpx.MockTransport(answer))) as client:
        found = await client.get("/v1/responses/resp_1")
        missing = await client.get("/v1/responses/resp_2")
    assert found.json() == {"by": "c"}
    assert asked == ["b", "c", "b", "c", "d"]
    assert problem(missing)["code"] == "model_unavailable"


# The list.


async def test_the_list_has_every_model_and_adapter_with_its_state() -> None:
    herd = FakeHerd(
        ModelStatus("a", ModelState.READY, 2, 2), ModelStatus("b", ModelState.FAILED, 0, 1, reason="no GPU")
    )
    app = gateway(FakeModel("a"), herd=herd, base_of={"a": "a", "tuned": "a", "b": "b", "c": "c"})
    async with client_of(app) as client:
        listed = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/tuned")).json()
    same = {"object": "model", "created": 1_700_000_000, "owned_by": "corral"}
    ready = {**same, "state": "ready", "replicas": 2, "target_replicas": 2}
    failed = {**same, "state": "failed", "replicas": 0}
    assert listed == {
        "object": "list",
        "data": [
            {"id": "a", "task": "generate", **ready},
            {"id": "tuned", "task": "embed", **ready, "root": "a", "parent": "a"},
            {"id": "b", "task": "embed", **failed, "target_replicas": 1, "reason": "no GPU"},
            {"id": "c", "task": "embed", **failed, "target_replicas": 0, "reason": "it is not deployed"},
        ],
    }
    assert one == listed["data"][1]


async def test_openai_s_own_client_reads_the_list_and_the_404() -> None:
    async with client_of(passing()) as http:
        client = AsyncOpenAI(base_url="http://gateway/v1", api_key="none", http_client=cast(Any, http), max_retries=0)
        models = await client.models.list()
        assert [model.id for model in models.data] == ["a", "b"]
        with pytest.raises(NotFoundError) as error:
            await client.chat.completions.create(model="zebra", messages=[{"role": "user", "content": "x"}])
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


async def test_requests_in_flight_do_not_wait_for_each_other() -> None:
    tap = Tap()
    app = gateway(FakeModel("a"), upstream=tap)
    calls = [post(app, "/v1/chat/completions", {**ASKED, "stream": True}) for _ in range(3)]
    await eventually(lambda: all(call.sent.qsize() == 1 for call in calls))
    for call in calls:
        call.leave()
    await asyncio.gather(*(call.task for call in calls))
