"""Wrong requests: a 4xx in OpenAI's error shape that names the field, at once, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.serve.herd import BUFSIZE, CONTEXT_TOKENS, MAX_BODY, SERVED

pytestmark = pytest.mark.serve

JSON = {"content-type": "application/json"}
MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT = {"model": "pocket-1b", "messages": MESSAGES}
COMPLETION = {"model": "pocket-1b", "prompt": "Hi"}
RESPONSE = {"model": "pocket-1b", "input": "Hi"}
EMBEDDING = {"model": "embedder", "input": "Hi"}
GENERATE = {"model": "pocket-1b", "prompt": "Hi"}
LONG = "llama " * CONTEXT_TOKENS

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {**CHAT, "max_tokenz": 5}, "max_tokenz"),
    ("/v1/chat/completions", {**CHAT, "max_tokens": 0}, "max_tokens"),
    ("/v1/chat/completions", {**CHAT, "max_tokens": -1}, "max_tokens"),
    ("/v1/chat/completions", {**CHAT, "max_tokens": CONTEXT_TOKENS + 1}, "max_tokens"),
    ("/v1/chat/completions", {**CHAT, "max_tokens": 1 << 70}, "max_tokens"),
    ("/v1/chat/completions", {**CHAT, "max_tokens": "many"}, "max_tokens"),
    ("/v1/chat/completions", {**CHAT, "temperature": 9}, "temperature"),
    ("/v1/chat/completions", {**CHAT, "top_p": 0}, "top_p"),
    ("/v1/chat/completions", {**CHAT, "messages": []}, "messages"),
    ("/v1/chat/completions", {**CHAT, "messages": "Hi"}, "messages"),
    ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": LONG}]}, "messages"),
    ("/v1/chat/completions", {"model": "pocket-1b"}, "messages"),
    ("/v1/chat/completions", {"messages": MESSAGES}, "model"),
    ("/v1/chat/completions", {**CHAT, "model": 5}, "model"),
    ("/v1/chat/completions", {**CHAT, "model": ""}, "model"),
    ("/v1/chat/completions", {**CHAT, "model": "Pocket-1B"}, "model"),
    ("/v1/chat/completions", {**CHAT, "model": "../pocket-1b"}, "model"),
    ("/v1/completions", {**COMPLETION, "promt": "Hi"}, "promt"),
    ("/v1/completions", {**COMPLETION, "prompt": ""}, "prompt"),
    ("/v1/completions", {**COMPLETION, "prompt": LONG}, "prompt"),
    ("/v1/completions", {"model": "pocket-1b"}, "prompt"),
    ("/v1/completions", {**COMPLETION, "max_tokens": CONTEXT_TOKENS + 1}, "max_tokens"),
    ("/v1/responses", {**RESPONSE, "inptu": "Hi"}, "inptu"),
    ("/v1/responses", {**RESPONSE, "input": ""}, "input"),
    ("/v1/responses", {**RESPONSE, "input": LONG}, "input"),
    ("/v1/embeddings", {**EMBEDDING, "inputs": "Hi"}, "inputs"),
    ("/v1/embeddings", {**EMBEDDING, "input": ""}, "input"),
    ("/v1/embeddings", {**EMBEDDING, "input": []}, "input"),
    ("/v1/embeddings", {**EMBEDDING, "input": LONG}, "input"),
    ("/v1/embeddings", {"model": "embedder"}, "input"),
    ("/tokenize", {**COMPLETION, "promt": "Hi"}, "promt"),
    ("/tokenize", {"model": "pocket-1b"}, "prompt"),
    ("/detokenize", {"model": "pocket-1b", "tokens": "Hi"}, "tokens"),
    ("/generate", {**GENERATE, "max_tokenz": 5}, "max_tokenz"),
    ("/generate", {**GENERATE, "max_tokens": 0}, "max_tokens"),
    ("/generate", {**GENERATE, "max_tokens": CONTEXT_TOKENS + 1}, "max_tokens"),
    ("/generate", {**GENERATE, "prompt": ""}, "prompt"),
    ("/generate", {**GENERATE, "prompt": "  "}, "prompt"),
    ("/generate", {**GENERATE, "prompt": LONG}, "prompt"),
    ("/generate", {**GENERATE, "messages": MESSAGES}, "messages"),
    ("/generate", {"model": "pocket-1b"}, "prompt"),
    ("/generate", {**GENERATE, "temperature": 9}, "temperature"),
    ("/generate", {**GENERATE, "model": "nope"}, "model"),
    ("/generate", {**GENERATE, "model": "embedder"}, "model"),
    ("/bulk", {"items": []}, "items"),
    ("/bulk", {"items": "Hi"}, "items"),
    ("/bulk", {"item": [GENERATE]}, "item"),
    ("/bulk", {}, "items"),
]
POSTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/tokenize",
    "/generate",
    "/bulk",
)
NOT_JSON = (
    b"",
    b"{",
    b'{"model": "pocket-1b", "messages": [{]}',
    b"[]",
    b'"Hi"',
    b'{"temperature": NaN}',
    b"\xff\xfe",
    b"[" * 90_000,
)


def assert_refused(response: httpx.Response, *params: str | None) -> None:
    assert 400 <= response.status_code < 500, response.text
    error = response.json()["error"]
    assert error["message"]
    assert error["param"] in params, error


@pytest.mark.parametrize(
    ("path", "body", "param"), WRONG, ids=[f"{path}-{param}-{n}" for n, (path, _, param) in enumerate(WRONG)]
)
def test_the_wrong_field_is_named(http: httpx.Client, path: str, body: dict[str, Any], param: str) -> None:
    alike = {"messages"} if path == "/generate" and param == "prompt" else set()  # a prompt becomes one message
    assert_refused(http.post(path, json=body), param, *alike)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_is_no_json_object_is_refused(http: httpx.Client, path: str, body: bytes) -> None:
    assert_refused(http.post(path, content=body, headers=JSON), "body", "model")


@pytest.mark.parametrize("path", POSTS)
def test_json_that_names_its_model_and_then_breaks_off_is_refused(http: httpx.Client, path: str) -> None:
    model = b"embedder" if path == "/v1/embeddings" else b"pocket-1b"
    body = b'{"model": "' + model + b'", "messages": [{"role": "user", '
    assert_refused(http.post(path, content=body, headers=JSON), "body")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_wrong_content_type_is_refused(http: httpx.Client, path: str, content_type: str | None) -> None:
    bodies = {
        "/v1/embeddings": EMBEDDING,
        "/v1/completions": COMPLETION,
        "/v1/responses": RESPONSE,
        "/tokenize": COMPLETION,
    }
    request = http.build_request("POST", path, json=bodies.get(path, CHAT))
    del request.headers["content-type"]
    if content_type:
        request.headers["content-type"] = content_type
    response = http.send(request)
    assert_refused(response, "content-type")
    assert response.status_code == 415


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate"])
def test_an_unknown_model_is_answered_with_the_known_ones(http: httpx.Client, path: str) -> None:
    body = CHAT if path.startswith("/v1") else GENERATE
    response = http.post(path, json={**body, "model": "llama-3.1-8b"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert all(model in response.json()["error"]["message"] for model in SERVED)


@pytest.mark.parametrize("path", POSTS)
def test_get_where_post_is_meant_is_told_so(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    assert response.status_code in (404, 405)
    assert response.json()["error"]["message"]


def test_a_model_is_asked_for_what_it_cannot_do(http: httpx.Client) -> None:
    for path, body in (("/v1/embeddings", RESPONSE), ("/v1/chat/completions", {**CHAT, "model": "embedder"})):
        response = http.post(path, json=body)
        assert 400 <= response.status_code < 500
        assert response.json()["error"]["message"]


def padded(size: int, **body: Any) -> dict[str, Any]:
    """A chat request of about `size` bytes with a short prompt and its model at the end."""
    return {"user": "x" * size, "messages": MESSAGES, "max_tokens": 4, **body, "model": "pocket-1b"}


def passed_on(http: httpx.Client) -> float:
    """Chat requests that the gateway answered."""
    found = [line for line in http.get("/metrics").text.splitlines() if 'route="/v1/chat/completions"' in line]
    return sum(float(line.split()[-1]) for line in found if line.startswith("corral_gateway_requests_total"))


def test_a_small_body_does_not_pass_through_the_gateway(http: httpx.Client) -> None:
    before = passed_on(http)
    http.post("/v1/chat/completions", json=padded(BUFSIZE // 2)).raise_for_status()
    assert passed_on(http) == before


@pytest.mark.parametrize("size", [BUFSIZE + 1, MAX_BODY - 4096])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_past_the_edges_buffer_is_answered_all_the_same(http: httpx.Client, size: int, chunked: bool) -> None:
    before = passed_on(http)
    response = send(http, "/v1/chat/completions", padded(size), chunked)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == "pocket-1b"
    assert passed_on(http) == before + 1


def test_a_large_body_streams_too(http: httpx.Client) -> None:
    response = http.post("/v1/chat/completions", json=padded(BUFSIZE * 2, stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/generate"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_past_the_limit_is_refused(http: httpx.Client, path: str, chunked: bool) -> None:
    response = send(http, path, padded(MAX_BODY), chunked)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


def test_bulk_has_a_limit_of_its_own(http: httpx.Client) -> None:
    items = [{**GENERATE, "max_tokens": 2, "id": "x" * 256} for _ in range(20)]
    response = http.post("/bulk", content=b" " * MAX_BODY + encoded({"items": items}), headers=JSON)
    assert response.status_code == 200
    assert response.json()["summary"]["succeeded"] == 20


def encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


def send(http: httpx.Client, path: str, body: dict[str, Any], chunked: bool) -> httpx.Response:
    if not chunked:
        return http.post(path, json=body)
    whole = encoded(body)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(whole), 16_384):
            yield whole[start : start + 16_384]

    return http.post(path, content=pieces(), headers=JSON)


async def test_nobody_notices_wrong_requests(ahttp: httpx.AsyncClient) -> None:
    async def good() -> int:
        response = await ahttp.post("/v1/chat/completions", json={**CHAT, "max_tokens": 8})
        return response.status_code

    async def wrong(path: str, body: dict[str, Any]) -> int:
        return (await ahttp.post(path, json=body)).status_code

    statuses = await asyncio.gather(*(task for path, body, _ in WRONG for task in (good(), wrong(path, body))))
    assert set(statuses[::2]) == {200}
    assert all(400 <= status < 500 for status in statuses[1::2])
