"""The gate in front of vLLM's app: what it refuses, what it passes on untouched."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, cast

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from deployments.direct_chat import DirectChat
from deployments.gate import Gate
from deployments.principal import HEADER, SECRET_HEADER, Principal
from deployments.secret import Door

FIELDS = frozenset({"model", "messages", "prompt", "max_tokens"})
CHAT = "/v1/chat/completions"


class Echo:
    """Answers with the body it got; paths below /bad answer with FastAPI's own error shape."""

    state = "an attribute that Serve may look at"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        bad = "/bad" in scope["path"] or scope["path"] == "/v1/embeddings"
        body = b""
        while scope["method"] == "POST":
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        answer = b'{"detail": "Not Found"}' if bad else body
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 404 if bad else 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@pytest.fixture
def client() -> httpx.AsyncClient:
    gate = Gate(Echo(), {CHAT: FIELDS}, max_body=1000, task="generate")
    return httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://gate")


async def test_a_good_body_reaches_the_app_byte_for_byte(client: httpx.AsyncClient) -> None:
    body = b'{"model": "m",\n "messages": [{"role": "user", "content": "\\u00e9"}]}'
    answer = await client.post(CHAT, content=body, headers={"content-type": "application/json; charset=utf-8"})
    assert (answer.status_code, answer.content) == (200, body)


@pytest.mark.parametrize(
    ("body", "param", "word"),
    [
        (b'{"model": ', "body", "not JSON"),
        (b"[1]", "body", "object"),
        (b'{"model": "\xff"}', "body", "UTF-8"),
        (b'{"max_tokens": NaN}', "body", "NaN"),
        (b'{"prompt": "\\ud800"}', "prompt", "surrogate"),
        (b"[" * 900, "body", "JSON"),
        (b'{"max_token": 1}', "max_token", "did you mean 'max_tokens'"),
        (b'{"prompt": ""}', "prompt", "empty"),
        (b'{"messages": []}', "messages", "empty"),
    ],
)
async def test_a_bad_body_is_refused_with_its_field(
    client: httpx.AsyncClient, body: bytes, param: str, word: str
) -> None:
    answer = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert word in error["message"]


async def test_type_and_size_have_their_own_status(client: httpx.AsyncClient) -> None:
    wrong_type = await client.post(CHAT, content=b"{}", headers={"content-type": "text/plain"})
    too_large = await client.post(CHAT, content=b" " * 1001, headers={"content-type": "application/json"})
    assert (wrong_type.status_code, too_large.status_code) == (415, 413)


async def test_other_paths_are_vllms_own(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/audio", content=b"not JSON", headers={"content-type": "audio/wav"})
    assert (answer.status_code, answer.content) == (200, b"not JSON")


async def test_foreign_error_shapes_become_openais(client: httpx.AsyncClient) -> None:
    answer = await client.get("/bad")
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "The model has no path '/bad'.")


async def test_a_path_of_the_other_task_says_which_task_it_is_for(client: httpx.AsyncClient) -> None:
    error = (await client.post("/v1/embeddings", json={"model": "m", "input": "x"})).json()["error"]
    assert (error["code"], error["param"]) == ("not_found", "model")
    assert "models of task 'embed'; this one's is 'generate'" in error["message"]


@pytest.mark.parametrize(
    ("given", "asked", "error"),
    [
        (
            {"error": {"message": "too long for the context length", "param": "input_tokens"}},
            b'{"messages": [1]}',
            {"param": "messages", "code": "context_length_exceeded"},
        ),
        (
            {"error": {"message": "wrong", "param": "body.tools.0.function-wrap[x].name"}},
            b"{}",
            {"param": "tools.0.name", "code": "invalid_request"},
        ),
        ({"detail": "There is nothing"}, b"{}", {"param": None, "code": "invalid_request"}),
    ],
    ids=["an unnamed field is the input", "a field by its place in the body", "FastAPI's shape"],
)
async def test_vllms_errors_name_the_field(given: dict[str, Any], asked: bytes, error: dict[str, Any]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse(given, status_code=400)(scope, receive, send)

    gate = Gate(app, {CHAT: FIELDS}, max_body=1000, task="generate")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://gate") as http:
        told = (await http.post(CHAT, content=asked, headers={"content-type": "application/json"})).json()["error"]
    assert {key: told[key] for key in error} == error


def test_the_wrapped_apps_attributes_are_reachable() -> None:
    assert Gate(Echo(), {}, 1, "embed").state == Echo.state


class Direct:
    """Takes streamed requests of one model."""

    async def events(self, parsed: dict[str, Any], scope: Scope) -> AsyncGenerator[str, None] | None:
        return self._events() if parsed["model"] == "taken" else None

    async def _events(self) -> AsyncGenerator[str, None]:
        yield "data: é\n\n"
        yield "data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("model", "answer", "type_"),
    [
        ("taken", "data: é\n\ndata: [DONE]\n\n", "text/event-stream"),
        ("other", '{"model": "other"}', "application/json"),
    ],
)
async def test_what_is_not_answered_directly_reaches_the_app(model: str, answer: str, type_: str) -> None:
    gate = Gate(Echo(), {CHAT: FIELDS}, max_body=1000, task="generate", direct=cast("DirectChat", Direct()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://gate") as client:
        got = await client.post(
            CHAT, content=json.dumps({"model": model}), headers={"content-type": "application/json"}
        )
    assert (got.status_code, got.text) == (200, answer)
    assert got.headers["content-type"].startswith(type_)


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/score", "/v1/chat/completions/batch"])
async def test_a_key_reaches_no_adapter_that_it_may_not_ask(path: str) -> None:
    """Whatever the edge took for the model."""
    gate = Gate(Echo(), {CHAT: FIELDS | {"model"}}, max_body=1000, task="generate", door=Door("5ec2e7"))
    narrow = {SECRET_HEADER: "5ec2e7", HEADER: Principal("k", scopes=("models:base",)).to_header()}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://replica") as http:
        refused = await http.post(path, json={"model": "base.adapter"}, headers=narrow)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_allowed")
        assert refused.json()["error"]["param"] == "model"
        assert (await http.post(path, json={"model": "base"}, headers=narrow)).status_code == 200
        twice = b'{"model": "base", "model": "base.adapter"}'
        json_type = {"content-type": "application/json"}
        assert (await http.post(path, content=twice, headers={**narrow, **json_type})).status_code == 400
