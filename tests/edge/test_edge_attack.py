"""What attacks the edge on the wire: requests in requests, tricks with paths, bombs, and clients that never end."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from contextlib import AsyncExitStack

import httpx
import pytest

from app.edge import Edge, EdgeSpec
from tests.edge.backend import Backend
from tests.edge.sockets import connected, exchanged, statuses

CHAT = "/v1/chat/completions"
BODY = b'{"model": "m-a"}'
INNER = b"GET /internal/replicas HTTP/1.1\r\nhost: x\r\n\r\n"
END = b"host: x\r\nconnection: close\r\n\r\n"
SHORT = {"request_timeout_s": 0.5, "idle_timeout_s": 2}


def post(*headers: bytes, body: bytes = BODY) -> bytes:
    return b"\r\n".join([b"POST /v1/chat/completions HTTP/1.1", b"host: x", *headers, b"", b""]) + body


async def assert_good(client: httpx.AsyncClient) -> None:
    """The next request of somebody else is served."""
    answer = await client.post(CHAT, content=BODY)
    assert (answer.status_code, answer.json()["from"]) == (200, "serve")


SMUGGLED = [
    post(b"content-length: 0", b"content-length: 16", body=INNER),
    post(b"content-length: 0", b"transfer-encoding: chunked", b"content-length: 5", body=b"0\r\n\r\n" + INNER),
    post(b"transfer-encoding: chunked", b"transfer-encoding: identity", body=b"0\r\n\r\n" + INNER),
    post(b"transfer-encoding: xchunked", body=b"0\r\n\r\n" + INNER),
    post(b"transfer-encoding : chunked", body=b"0\r\n\r\n" + INNER),
    post(b"transfer-encoding: chunked\x00", body=b"0\r\n\r\n" + INNER),
    post(b"content-length: +5", body=INNER),
    post(b"content-length: 0x5", body=INNER),
    post(b"content-length: -1", body=INNER),
    post(b"content-length: 5, 6", body=INNER),
    post(b"content-length: " + b"9" * 40, body=INNER),
    post(b"content-length:\x0b5", body=INNER),
    post(b"transfer-encoding: chunked", body=b"-1\r\n" + INNER),
    post(b"transfer-encoding: chunked", body=b"fffffffffffffffff\r\n" + INNER),
    post(b"x: a\nhost: y", b"bad header: 1", body=b""),
    post(b"x: a\rb", body=b""),
    b"POST / HTTP/1.1\r\nhost: x\r\n content-length: 5\r\n" + END + INNER,
    b"GET  / HTTP/1.1\r\n" + END,
    b"GET / HTTP/3.7\r\n" + END,
    b"GET /\x00 HTTP/1.1\r\n" + END,
    b"GET /\xff\xfe HTTP/1.1\r\n" + END,
    b"get\x7f / HTTP/1.1\r\n" + END,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 32,
]


@pytest.mark.parametrize("request_bytes", SMUGGLED, ids=range(len(SMUGGLED)))
@pytest.mark.parametrize("spec", [SHORT], indirect=True)
async def test_no_request_hides_in_another(
    spec: EdgeSpec, client: httpx.AsyncClient, serve: Backend, request_bytes: bytes
) -> None:
    answers = await exchanged(spec, request_bytes, close=True)
    assert all(status == 200 or 400 <= status < 500 for status in statuses(answers)), answers[:300]
    assert [path for path in serve.paths if "internal" in path] == []
    await assert_good(client)


HIDDEN = [
    "/internal/replicas", "//internal/replicas", "/%69nternal/replicas", "/v1/../internal/replicas",
    "/v1/%2e%2e/internal/replicas", "/v1/..%2finternal/replicas", "/./internal/replicas", "/%2finternal/replicas",
    "/models/m-a/v1/models", "/-/routes", "/%2d/routes", "/-/healthz", "http://x/internal/replicas",
    "http://x//internal/replicas", "/internal", "/internal/", "/models", "/static/../internal/replicas",
    "/%2e/internal/replicas", "/internal%2freplicas", "/static/%2e%2e/-/routes",
]  # fmt: skip
NOWHERE = [
    "/internal;x/replicas", "/internal%00/replicas", "/INTERNAL/replicas", "/v1\\..\\internal",
    "/%c0%ae%c0%ae/internal",
    "/v1/%zz", "/v1/%", "/static/..;/internal", "/%252e%252e/internal/replicas", "/v1/models/%0d%0ax:y",
]  # fmt: skip


@pytest.mark.parametrize("path", HIDDEN)
async def test_no_way_of_writing_a_path_leads_inside(spec: EdgeSpec, edge: Edge, serve: Backend, path: str) -> None:
    (status,) = statuses(await exchanged(spec, f"GET {path} HTTP/1.1\r\n".encode() + END))
    assert status == 404
    assert serve.seen == []


@pytest.mark.parametrize("path", NOWHERE)
async def test_what_looks_like_it_is_passed_on_as_it_was_written(
    spec: EdgeSpec, edge: Edge, serve: Backend, path: str
) -> None:
    (status,) = statuses(await exchanged(spec, f"GET {path} HTTP/1.1\r\n".encode() + END))
    assert status == 400 if not serve.seen else serve.paths == [path]


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "post", "PROPFIND", "A" * 300, "OPTIONS"])
async def test_other_methods_are_nothing_special(
    spec: EdgeSpec, client: httpx.AsyncClient, serve: Backend, method: str
) -> None:
    answers = await exchanged(spec, f"{method} {'x:1' if method == 'CONNECT' else CHAT} HTTP/1.1\r\n".encode() + END)
    assert all(status < 500 for status in statuses(answers))
    assert all(seen.path in (CHAT, "x:1") for seen in serve.seen)
    await assert_good(client)


async def test_an_upgrade_makes_no_tunnel(spec: EdgeSpec, edge: Edge, serve: Backend) -> None:
    upgrade = b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    upgrade += b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    answers = await exchanged(spec, upgrade + INNER + b"GET /health HTTP/1.1\r\n" + END)
    assert 101 not in statuses(answers)
    assert [path for path in serve.paths if "internal" in path] == []


async def test_pipelined_requests_are_each_looked_at(spec: EdgeSpec, edge: Edge, serve: Backend) -> None:
    good = post(b"content-length: %d" % len(BODY))
    answers = await exchanged(spec, good + INNER + good + b"GET /-/routes HTTP/1.1\r\n" + END)
    assert statuses(answers) == [200, 404, 200, 404]
    assert serve.paths == [f"/models/m-a{CHAT}"] * 2


@pytest.mark.parametrize(
    "headers",
    [
        [b"x-%d: y" % number for number in range(5000)], [b"x: " + b"y" * (2 << 20)], [b"cookie: a=b; " * 50_000],
        [b"y" * (1 << 20) + b": x"],
    ],
    ids=["many", "long", "cookie", "name"],
)  # fmt: skip
async def test_a_bomb_of_headers_is_refused(
    spec: EdgeSpec, client: httpx.AsyncClient, serve: Backend, headers: list[bytes]
) -> None:
    answers = await exchanged(spec, b"\r\n".join([b"GET / HTTP/1.1", *headers, b""]) + END)
    assert statuses(answers) in ([400], [431], [])  # or a reset, while it was still being sent
    assert serve.seen == []
    await assert_good(client)


async def test_a_packed_body_is_not_unpacked(client: httpx.AsyncClient, serve: Backend) -> None:
    bomb = gzip.compress(b"[" * (8 << 20))
    answer = await client.post(CHAT, content=bomb, headers={"content-encoding": "gzip"})
    assert answer.status_code == 200
    assert serve.seen[0].body == bomb


@pytest.mark.parametrize("spec", [SHORT], indirect=True)
@pytest.mark.parametrize(
    "begun",
    [
        b"", b"P", b"POST / HTTP/1.1\r\nhost", post(b"content-length: 100", body=b"{"),
        post(b"transfer-encoding: chunked", body=b"5\r\n{"), b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=["silent", "line", "header", "body", "chunk", "idle"],
)  # fmt: skip
async def test_who_stops_in_the_middle_is_hung_up_on(
    spec: EdgeSpec, client: httpx.AsyncClient, serve: Backend, begun: bytes
) -> None:
    async with connected(spec) as raw:
        await raw.send(begun)
        await assert_good(client)
        answers = await raw.rest()
    assert statuses(answers) in ([], [408], [200])


@pytest.mark.parametrize("spec", [SHORT], indirect=True)
async def test_a_header_each_moment_gives_no_more_time(spec: EdgeSpec, client: httpx.AsyncClient) -> None:
    async with connected(spec) as raw:
        await raw.send(b"GET / HTTP/1.1\r\n")

        async def drip() -> None:
            while True:
                await raw.send(b"x: y\r\n")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert statuses(await raw.rest()) in ([], [408])
        dripping.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await dripping


async def test_a_client_that_does_not_read_holds_up_nobody(
    spec: EdgeSpec, client: httpx.AsyncClient, serve: Backend
) -> None:
    async with connected(spec) as raw:
        await raw.send(post(b"content-length: %d" % len(BODY)).replace(b"completions ", b"completions?stream=1 "))
        await asyncio.wait_for(serve.arrived.wait(), 5)
        for _ in range(200):
            serve.more.put_nowait("x" * 60_000)
        await assert_good(client)
        assert (await raw.head()).startswith(b"HTTP/1.1 200")
    await asyncio.wait_for(serve.left.wait(), 20)


@pytest.mark.parametrize("spec", [{"max_connections": 400}], indirect=True)
async def test_one_host_cannot_take_all_connections(spec: EdgeSpec, client: httpx.AsyncClient) -> None:
    async with AsyncExitStack() as idle:
        for _ in range(420):
            with contextlib.suppress(ConnectionError):
                await idle.enter_async_context(connected(spec, source="127.0.0.2"))
        await assert_good(client)
        assert await asked_from(spec, "127.0.0.2") == []
        assert await asked_from(spec, "127.0.0.3") == [200]


async def asked_from(spec: EdgeSpec, source: str) -> list[int]:
    with contextlib.suppress(ConnectionError):
        async with connected(spec, source) as raw:
            await raw.send(b"GET /health HTTP/1.1\r\n" + END)
            return statuses(await raw.rest())
    return []


async def test_two_thousand_idle_connections_are_nobodys_trouble(spec: EdgeSpec, client: httpx.AsyncClient) -> None:
    async with AsyncExitStack() as idle:
        for begun in (b"", b"GET / HTTP/1.1\r\nx: "):
            for raw in await asyncio.gather(
                *(idle.enter_async_context(connected(spec, source="127.0.0.2")) for _ in range(1000))
            ):
                await raw.send(begun)
        await assert_good(client)


async def test_no_error_repeats_what_was_sent(spec: EdgeSpec, edge: Edge) -> None:
    secret = b"corral-abcdefgh-" + b"0" * 48
    for sent in (
        b"GET /%zz" + secret + b" HTTP/1.1\r\n" + END,
        b"GET / HTTP/1.1\r\nauthorization: Bearer " + secret + b"\r\nbad name: " + secret + b"\r\n" + END,
        b"GET /internal/" + secret + b" HTTP/1.1\r\nauthorization: Bearer " + secret + b"\r\n" + END,
    ):
        answer = await exchanged(spec, sent)
        assert statuses(answer) in ([400], [404])
        assert secret not in answer
        if b"application/json" in answer:  # what is no HTTP at all HAProxy answers in its own words
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
