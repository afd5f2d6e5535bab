"""A real HAProxy picks the model by the body, and what is not surely a model's request is the gateway's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.edge import Edge, EdgeSpec
from tests.edge.backend import Backend
from tests.edge.conftest import MODELS

CHAT = "/v1/chat/completions"
FILLER = "x" * 400_000


async def arrives(client: httpx.AsyncClient, serve: Backend, body: Any, path: str = CHAT) -> str:
    """Where the backend saw the request."""
    serve.seen.clear()
    content = body if isinstance(body, bytes) or hasattr(body, "__aiter__") else json.dumps(body).encode()
    response = await client.post(path, content=content)
    assert response.status_code == 200, response.text
    assert len(serve.seen) == 1
    return serve.seen[0].path


async def test_model_picks_the_application(client: httpx.AsyncClient, serve: Backend) -> None:
    for model, base in MODELS:
        for body in ({"model": model}, {"model": model, "messages": FILLER}, {"messages": FILLER, "model": model}):
            assert await arrives(client, serve, body) == f"/models/{base}{CHAT}"
            assert json.loads(serve.seen[0].body) == body


async def test_body_past_the_buffer_is_the_gateways_unless_its_head_names_the_model(
    client: httpx.AsyncClient, serve: Backend
) -> None:
    assert await arrives(client, serve, {"messages": FILLER * 2, "model": "m-a"}) == CHAT
    assert await arrives(client, serve, {"model": "m-a", "messages": FILLER * 2}) == f"/models/m-a{CHAT}"
    assert len(serve.seen[0].body) > 800_000


STRANGE = [
    {"a": 1}, ["m-a"], 1, True, None, "", "nope", "x" * 10_000, "m-a\n", "m-a\r\nx-evil: 1", 'm-a"', "m-a ", "M-A",
    "m-ä", "../m-a", "m-a/../m-b", "%6d-a", "m-a b", "\x00m-a",
]  # fmt: skip


async def test_strange_models_are_the_gateways_and_touch_nothing(client: httpx.AsyncClient, serve: Backend) -> None:
    for model in STRANGE:
        assert await arrives(client, serve, {"model": model}) == CHAT, model
        assert serve.seen[0].all("x-evil") == []
        assert json.loads(serve.seen[0].body) == {"model": model}


NOT_OBJECTS = [
    b"",
    b"m-a",
    b'[{"model":"m-a"}]',
    b'"m-a"',
    b'{"x":{"model":"m-a"}}',
    b"\xff\xfe{}",
    b"\x1f\x8b\x08" * 9,
]


async def test_what_is_no_object_with_a_model_is_the_gateways(client: httpx.AsyncClient, serve: Backend) -> None:
    for body in NOT_OBJECTS:
        assert await arrives(client, serve, body) == CHAT, body


async def test_where_haproxy_reads_json_unlike_python_the_body_still_says_which_model(
    client: httpx.AsyncClient, serve: Backend
) -> None:
    """HAProxy takes the first of two keys, ends a string at NUL and does not see a break later in the text. The model
    that it picks is one that routes anyway, and its vLLM reads the whole body: 404 or 400 is the worst that comes."""
    assert await arrives(client, serve, b'{"model":"m-a","model":"m-b"}') == f"/models/m-a{CHAT}"
    assert serve.seen[0].body == b'{"model":"m-a","model":"m-b"}'
    assert await arrives(client, serve, b'{"model":"m-a\\u0000m-b"}') == f"/models/m-a{CHAT}"
    assert await arrives(client, serve, b'{"model":"m-a",') == f"/models/m-a{CHAT}"


async def pieces(count: int, model_last: bool) -> AsyncIterator[bytes]:
    yield b'{"messages":"' if model_last else b'{"model":"m-a","messages":"'
    for _ in range(count):
        yield b"x" * 1000
    yield b'","model":"m-a"}' if model_last else b'"}'


@pytest.mark.parametrize("last", [False, True])
async def test_chunked_bodies(client: httpx.AsyncClient, serve: Backend, last: bool) -> None:
    assert await arrives(client, serve, pieces(200, last)) == f"/models/m-a{CHAT}"
    assert len(serve.seen[0].body) > 200_000
    assert await arrives(client, serve, pieces(2000, last)) == CHAT  # the gateway counts bodies of unknown length


@pytest.mark.parametrize("path", [CHAT, "/bulk"])
async def test_expect_100_continue(spec: EdgeSpec, edge: Edge, serve: Backend, path: str) -> None:
    reader, writer = await asyncio.open_connection(spec.host, spec.port)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 15\r\nconnection: close\r\n\r\n"
    writer.write(head.encode())
    assert await asyncio.wait_for(reader.readline(), 5) == b"HTTP/1.1 100 Continue\r\n"
    writer.write(b'{"model":"m-a"}')
    assert b"HTTP/1.1 200 OK" in await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert serve.seen[0].body == b'{"model":"m-a"}'


SEEN = {
    "/tokenize": "/models/m-a/tokenize",
    "/v1/tokenize": "/models/m-a/tokenize",
    "/v1/detokenize": "/models/m-a/detokenize",
    "/v1/embeddings?x=1": "/models/m-a/v1/embeddings",
    "/v1/tribunal": "/v1/tribunal",
    "/v1/rag/query": "/v1/rag/query",
    "/v1/models": "/v1/models",
    "/v1/load_lora_adapter": "/v1/load_lora_adapter",
    "/generate": "/generate",
    "/bulk": "/bulk",
}


async def test_paths_of_models_and_of_the_gateway(client: httpx.AsyncClient, serve: Backend) -> None:
    for path, seen in SEEN.items():
        assert await arrives(client, serve, {"model": "m-a"}, path) == seen


async def test_tokenize_of_an_unknown_model_is_the_gateways(client: httpx.AsyncClient, serve: Backend) -> None:
    assert await arrives(client, serve, {"model": "nope"}, "/v1/tokenize") == "/tokenize"


HIDDEN = ["/models/m-a/v1/models", "/models", "//models/m-a/x", "/%6dodels/m-a/x", "/-/routes", "/-/healthz",
          "/v1/../models/m-a/x", "/v1/%2e%2e/-/routes", "/v1/./x"]  # fmt: skip


async def test_replicas_and_serves_own_pages_are_not_reached_by_path(
    spec: EdgeSpec, edge: Edge, serve: Backend
) -> None:
    for path in HIDDEN:
        reader, writer = await asyncio.open_connection(spec.host, spec.port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 404 "), path
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "not_found"
    assert serve.seen == []


async def test_one_connection_for_all_models_and_methods(spec: EdgeSpec, edge: Edge, serve: Backend) -> None:
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=f"http://{spec.host}:{spec.port}", trust_env=False, limits=limits) as client:
        for model in ("m-a", "m-b", "nope", "m-a"):
            await client.post(CHAT, json={"model": model})
        for method in ("GET", "HEAD", "OPTIONS"):
            assert (await client.request(method, "/v1/models")).status_code == 200
    assert serve.paths == [
        f"/models/m-a{CHAT}", f"/models/m-b{CHAT}", CHAT, f"/models/m-a{CHAT}", *["/v1/models"] * 3,
    ]  # fmt: skip
    assert [each.method for each in serve.seen[-3:]] == ["GET", "HEAD", "OPTIONS"]


async def test_hops_are_not_believed_and_ids_are_kept(client: httpx.AsyncClient, serve: Backend) -> None:
    lies = {"x-forwarded-for": "6.6.6.6", "x-forwarded-host": "evil", "forwarded": "for=6", "x-real-ip": "6.6.6.6"}
    response = await client.get("/ready", headers={**lies, "x-request-id": "my-id.1"})
    (seen,) = serve.seen
    assert seen.all("x-forwarded-for") == ["127.0.0.1"]
    assert [seen.all(name) for name in ("x-forwarded-host", "forwarded", "x-real-ip")] == [[], [], []]
    assert seen.all("x-request-id") == ["my-id.1"]
    assert response.headers.get_list("x-request-id") == ["my-id.1"]


async def test_ids_that_could_do_harm_are_replaced(client: httpx.AsyncClient, serve: Backend) -> None:
    for given in ('bad"id', "a,b", "x" * 129, "a b"):
        response = await client.get("/ready", headers={"x-request-id": given})
        (made,) = serve.seen[-1].all("x-request-id")
        assert len(made) == 36
        assert response.headers["x-request-id"] == made


async def test_log_has_a_line_of_json_without_query_or_body(
    client: httpx.AsyncClient, edge: Edge, spec: EdgeSpec
) -> None:
    await client.post(f"{CHAT}?key=secret-query", json={"model": "m-a", "prompt": "secret-body"})
    await client.get('/v1/x"y')
    await edge.stop()
    text = (spec.workdir / "edge.log").read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert (lines[0]["path"], lines[0]["model"], lines[0]["status"], lines[0]["to"]) == (
        CHAT,
        "m-a",
        200,
        "model-m-a/serve",
    )
    assert "secret" not in text
