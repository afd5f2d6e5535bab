"""Bad input: always a 4xx in OpenAI's shape that names the field; never a 500, never a hang, no model asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.services import BulkLimits, Limits
from tests.unit.asgi import Call, client_of, gateway, post, problem
from tests.unit.fakes import FakeModel

JSON = {"content-type": "application/json"}
IDLE = FakeModel()
SHARED = gateway(IDLE)
BODY_PATHS = [
    "/generate", "/bulk", "/v1/chat/completions", "/tokenize", "/v1/tribunal", "/v1/rag/chat", "/v1/rag/search",
]  # fmt: skip


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "pocket-1b", "prompt": "where?", **more}


def user(content: Any) -> dict[str, Any]:
    return {"model": "pocket-1b", "messages": [{"role": "user", "content": content}]}


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "x"}, "model"),
    (asked(model=""), "model"),
    (asked(model=None), "model"),
    (asked(model=["pocket-1b"]), "model"),
    (asked(prompt=""), "prompt"),
    (asked(prompt=" \n\t"), "prompt"),
    (asked(prompt=7), "prompt"),
    (asked(prompt=["a"]), "prompt"),
    ({"model": "pocket-1b"}, "prompt"),
    ({**user("x"), "prompt": "y"}, "messages"),
    ({"model": "pocket-1b", "messages": []}, "messages"),
    ({"model": "pocket-1b", "messages": "hi"}, "messages"),
    ({"model": "pocket-1b", "messages": [None]}, "messages.0"),
    ({"model": "pocket-1b", "messages": [{"content": "x"}]}, "messages.0.role"),
    ({"model": "pocket-1b", "messages": [{"role": "user"}]}, "messages.0.content"),
    ({"model": "pocket-1b", "messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
    ({"model": "pocket-1b", "messages": [{"role": "user", "content": "x", "nmae": 1}]}, "messages.0.nmae"),
    (user(""), "messages.0.content"),
    (user(None), "messages.0.content"),
    (user([]), "messages.0.content"),
    (user([{"type": "text", "text": "a"}, {"type": "text", "text": ""}]), "messages.0.content.1.text"),
    (user([{"type": "image_url", "text": "a"}]), "messages.0.content.0.type"),
    (asked(max_tokens=0), "max_tokens"),
    (asked(max_tokens=-5), "max_tokens"),
    (asked(max_tokens=131_073), "max_tokens"),
    (asked(max_tokens=10**30), "max_tokens"),
    (asked(max_tokens="5"), "max_tokens"),
    (asked(max_tokens=True), "max_tokens"),
    (asked(max_tokens=1.5), "max_tokens"),
    (asked(temperature=-0.1), "temperature"),
    (asked(temperature=2.1), "temperature"),
    (asked(top_p=0), "top_p"),
    (asked(top_p=1.01), "top_p"),
    (asked(top_k=-2), "top_k"),
    (asked(min_p=2), "min_p"),
    (asked(stop=["a"] * 5), "stop"),
    (asked(stop=[""]), "stop.0"),
    (asked(stop={}), "stop"),
    (asked(seed=2**63), "seed"),
    (asked(seed="x"), "seed"),
    (asked(presence_penalty=3), "presence_penalty"),
    (asked(frequency_penalty=-3), "frequency_penalty"),
    (asked(response_format="json"), "response_format"),
    (asked(response_format={"a": {"b": 10**40}}), "response_format.a.b"),
    (asked(stream="yes"), "stream"),
    (asked(n=2), "n"),
    (asked(max_token=5), "max_token"),
]


@pytest.mark.parametrize(("body", "param"), BAD_FIELDS, ids=lambda value: json.dumps(value)[:60])
async def test_a_wrong_field_is_named(body: dict[str, Any], param: str) -> None:
    async with client_of(SHARED) as client:
        response = await client.post("/generate", json=body)
    assert response.status_code == 400
    error = problem(response)
    assert error["param"] == param
    assert param in error["message"]
    assert error["type"] == "invalid_request_error"
    assert IDLE.requests == []


async def test_an_unknown_field_comes_with_the_nearest_and_all_valid_ones() -> None:
    async with client_of(gateway(FakeModel())) as client:
        message = problem(await client.post("/generate", json=asked(max_token=5)))["message"]
    assert "did you mean 'max_tokens'?" in message
    assert "frequency_penalty, max_tokens, messages" in message


async def test_a_number_out_of_range_comes_with_the_range() -> None:
    async with client_of(gateway(FakeModel())) as client:
        message = problem(await client.post("/generate", json=asked(max_tokens=10**6)))["message"]
    assert "131072" in message


BAD_BODIES: list[tuple[bytes, str]] = [
    (b"", "body"),
    (b"   ", "body"),
    (b"{", "body"),
    (b"nonsense", "body"),
    (b'{"model": "pocket-1b",}', "body"),
    (b"[]", "body"),
    (b'"text"', "body"),
    (b"null", "body"),
    (b'{"model": "pocket-1b", "prompt": "\xff\xfe"}', "body"),
    (b"\xef\xbb\xbf{}", "body"),
    (b'{"model": "pocket-1b", "x": NaN}', "body"),
    (b'{"model": "pocket-1b", "x": -Infinity}', "body"),
    (b"[" * 100_000, "body"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "body"),
    (b'{"model": "pocket-1b", "x": ' + b"9" * 5000 + b"}", "body"),
]


@pytest.mark.parametrize("path", BODY_PATHS)
@pytest.mark.parametrize(("body", "param"), BAD_BODIES, ids=lambda value: repr(value)[:40])
async def test_a_body_that_is_no_json_object_is_refused(path: str, body: bytes, param: str) -> None:
    async with client_of(SHARED) as client:
        response = await client.post(path, content=body, headers=JSON)
    assert response.status_code == 400
    assert problem(response)["param"] == param
    assert len(response.content) < 600


BAD_VALUES: list[tuple[bytes, str]] = [
    (b'{"model": "pocket-1b", "prompt": "half \\ud83d pair"}', "prompt"),
    (b'{"model": "pocket-1b", "prompt": "x", "\\udc00": 1}', "body"),
    (b'{"model": "pocket-1b", "prompt": "x", "temperature": 1e999}', "temperature"),
    (b'{"model": "pocket-1b", "prompt": "x", "seed": 99999999999999999999}', "seed"),
    (
        b'{"model": "pocket-1b", "prompt": "x", "response_format": ' + b'{"a":' * 200 + b"1" + b"}" * 201,
        "response_format",
    ),
]


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions"])
@pytest.mark.parametrize(("body", "param"), BAD_VALUES, ids=lambda value: repr(value)[:70])
async def test_a_value_that_no_model_can_take_is_refused(path: str, body: bytes, param: str) -> None:
    async with client_of(SHARED) as client:
        response = await client.post(path, content=body, headers=JSON)
    assert response.status_code == 400
    assert str(problem(response)["param"]).startswith(param) or problem(response)["param"].endswith("a.a")


async def test_such_a_value_is_its_own_item_s_error_in_bulk() -> None:
    body = b'{"items": [' + BAD_VALUES[0][0] + b', {"model": "pocket-1b", "prompt": "fine"}]}'
    async with client_of(gateway(FakeModel())) as client:
        lines = (await client.post("/bulk", content=body, headers=JSON)).json()["items"]
    assert lines[0]["error"]["param"] == "prompt"
    assert "result" in lines[1]


async def test_a_whole_surrogate_pair_is_a_character() -> None:
    model = FakeModel()
    async with client_of(gateway(model)) as client:
        body = b'{"model": "pocket-1b", "prompt": "\\ud83e\\udd99"}'
        assert (await client.post("/generate", content=body, headers=JSON)).status_code == 200
    assert model.requests[0].messages[0]["content"] == "\N{LLAMA}"


@pytest.mark.parametrize("path", BODY_PATHS)
@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_a_wrong_content_type_is_415(path: str, kind: str | None) -> None:
    async with client_of(SHARED) as client:
        headers = {"content-type": kind} if kind else {}
        response = await client.post(path, content=b'{"model": "pocket-1b"}', headers=headers)
    assert response.status_code == 415
    assert problem(response)["param"] == "content-type"


async def test_a_charset_and_letter_case_do_not_matter() -> None:
    async with client_of(gateway(FakeModel())) as client:
        headers = {"content-type": "Application/JSON; charset=UTF-8"}
        response = await client.post("/generate", content=json.dumps(asked()).encode(), headers=headers)
    assert response.status_code == 200


SMALL = Limits(max_body=100, bulk=BulkLimits(max_body=300), body_timeout_s=0.03)


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/bulk"])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_past_the_limit_is_413_with_and_without_content_length(path: str, declared: bool) -> None:
    chunks = [b" " * 60] * 6
    headers = {**JSON, **({"content-length": "360"} if declared else {})}
    call = Call(gateway(FakeModel(), limits=SMALL), path, chunks, headers)
    start = await call.start()
    assert start["status"] == 413
    assert dict(start["headers"])[b"connection"] == b"close"
    assert json.loads(await call.piece())["error"]["code"] == "body_too_large"


async def test_a_declared_length_past_the_limit_is_refused_before_it_is_read() -> None:
    call = Call(gateway(FakeModel(), limits=SMALL), "/generate", [b"{"] * 2, {**JSON, "content-length": "101"})
    assert (await call.start())["status"] == 413
    assert len(call.unread) == 2


async def test_bulk_has_a_limit_of_its_own() -> None:
    call = Call(
        gateway(FakeModel(), limits=SMALL), "/bulk", [b" " * 200, json.dumps({"items": [asked()]}).encode()], JSON
    )
    assert (await call.start())["status"] == 200


async def test_a_body_that_does_not_arrive_is_408() -> None:
    call = Call(gateway(FakeModel(), limits=SMALL), "/generate", [b"{"], JSON, complete=False)
    start = await call.start()
    assert start["status"] == 408
    assert json.loads(await call.piece())["error"]["code"] == "body_timeout"


async def test_a_client_that_leaves_within_its_body_is_let_go() -> None:
    call = Call(gateway(FakeModel()), "/generate", [b"{"], JSON, complete=False)
    await asyncio.sleep(0)
    call.leave()
    await asyncio.wait_for(call.task, 1)
    assert call.sent.empty()


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/v1/embeddings", "/tokenize"])
async def test_an_unknown_model_is_404_with_the_known_ids(path: str) -> None:
    async with client_of(gateway(FakeModel("a"), FakeModel("b"))) as client:
        response = await client.post(path, json=asked(model="gpt-" + "4" * 500))
    assert response.status_code == 404
    error = problem(response)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "Models here: a, b." in error["message"]
    assert len(error["message"]) < 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/", 405),
        ("GET", "/nowhere", 404),
        ("POST", "/%00", 404),
        ("GET", "/generate", 405),
        ("PUT", "/bulk", 405),
        ("DELETE", "/health", 405),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/v1/nowhere", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/nope", 404),
        ("GET", "/ready/nope", 404),
        ("GET", "/generate/", 404),
    ],
)
async def test_unknown_paths_and_methods_have_openai_s_shape(method: str, path: str, status: int) -> None:
    async with client_of(SHARED) as client:
        response = await client.request(method, path)
    assert response.status_code == status
    problem(response)
    assert response.headers["x-request-id"]


async def test_nothing_else_is_disturbed_by_bad_input() -> None:
    step = asyncio.Semaphore(0)
    model = FakeModel(step=step)
    app = gateway(model)
    good = post(app, "/generate", asked())
    async with client_of(app) as client:
        for body, _ in BAD_BODIES:
            await client.post("/generate", content=body, headers=JSON)
    assert model.running == 1
    step.release()
    assert (await good.start())["status"] == 200


FIELDS = st.sampled_from([*asked(), "messages", "max_tokens", "stop", "stream", "items", "defaults", "response_format"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("pocket-1b")
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4), max_leaves=8
)
OBJECTS = st.dictionaries(FIELDS, VALUES, max_size=6).map(lambda body: json.dumps(body).encode())
NOISE = st.binary(max_size=40) | st.text(st.characters(), max_size=40).map(lambda text: json.dumps(text).encode())
FUZZED = gateway(FakeModel())
"""Apart from SHARED, since some of these requests are valid."""


@settings(max_examples=100, deadline=None)
@given(path=st.sampled_from(BODY_PATHS), body=OBJECTS | NOISE)
async def test_no_body_gives_a_500_or_another_shape(path: str, body: bytes) -> None:
    async with client_of(FUZZED) as client:
        response = await client.post(path, content=body, headers=JSON)
    if response.status_code != 200:
        assert response.status_code in (400, 404, 503)
        problem(response)
