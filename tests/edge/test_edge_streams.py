"""Streams pass piece by piece, a client that leaves is noticed, and every refusal has OpenAI's shape."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from app.edge import Edge, EdgeSpec, ModelLimits
from app.edge_admin import AdminSocket
from tests.edge.backend import Backend, running
from tests.edge.conftest import MakeSpec

CHAT = "/v1/chat/completions"
STREAM = f"{CHAT}?stream=1"
BODY = {"model": "m-a"}


def assert_openai_error(response: httpx.Response, status: int, kind: str, code: str) -> str:
    """Check the whole shape; returns the message."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert len(response.headers["x-request-id"]) == 36
    error = response.json()["error"]
    assert error == {"message": error["message"], "type": kind, "param": None, "code": code}
    return str(error["message"])


async def test_each_event_arrives_before_the_next_is_sent(client: httpx.AsyncClient, serve: Backend) -> None:
    async with client.stream("POST", STREAM, json=BODY) as response:
        events = response.aiter_text()
        for number in range(5):
            serve.more.put_nowait(str(number))  # the backend sends nothing more until the client has this one
            assert await asyncio.wait_for(anext(events), 5) == f"data: {number}\n\n"
        serve.more.put_nowait("end")
        assert [event async for event in events] == []


@pytest.mark.parametrize("events", [0, 1])
async def test_hang_up_reaches_the_backend(spec: EdgeSpec, edge: Edge, serve: Backend, events: int) -> None:
    """While the backend is silent: nothing that it sends can tell the edge that the client is gone."""
    body = json.dumps(BODY)
    reader, writer = await asyncio.open_connection(spec.host, spec.port)
    writer.write(f"POST {STREAM} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
    await asyncio.wait_for(serve.arrived.wait(), 5)
    for _ in range(events):
        serve.more.put_nowait("x")
        await asyncio.wait_for(reader.readuntil(b"data: x\n\n"), 5)
    writer.close()
    await asyncio.wait_for(serve.left.wait(), 5)


async def test_hang_up_in_the_queue_never_reaches_the_backend(make_spec: MakeSpec, serve: Backend) -> None:
    spec = make_spec(limits={"m-a": ModelLimits(1, in_flight=1)})
    serve.hold = asyncio.Event()
    async with running_edge(spec) as client:
        first = asyncio.create_task(client.post(CHAT, json=BODY))
        await serve.arrived.wait()
        with pytest.raises(httpx.ReadTimeout):
            await client.post(CHAT, json=BODY, timeout=0.3)
        serve.hold.set()
        assert (await first).status_code == 200
        assert (await client.post(CHAT, json={"model": "m-b"})).status_code == 200
    assert len(serve.seen) == 2


@asynccontextmanager
async def running_edge(spec: EdgeSpec) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an edge, for tests that want a spec of their own."""
    edge = Edge(spec)
    await edge.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{spec.host}:{spec.port}", trust_env=False, timeout=10) as client:
            yield client
    finally:
        await edge.stop(1)


@pytest.mark.parametrize("expect", [{}, {"expect": "100-continue"}], ids=["plain", "expect"])
@pytest.mark.parametrize("spec", [{"max_body": 1000_000, "bulk_max_body": 3_000_000}], indirect=True)
async def test_oversized_bodies(client: httpx.AsyncClient, serve: Backend, expect: dict[str, str]) -> None:
    """The client sends 2 and 9 MB before it reads: the answer reaches it all the same."""
    small_body = b"x" * (999_999 if not expect else 10)
    assert (await client.post("/generate", content=small_body)).status_code == 200
    assert (await client.post("/bulk", content=b"x" * 2_000_000)).status_code == 200
    if expect:
        return
    for path, size, limit in ((CHAT, 2_000_000, 1000_000), ("/bulk", 9_000_000, 3_000_000)):
        refused = await client.post(path, content=b"x" * size)
        message = assert_openai_error(refused, 413, "invalid_request_error", "body_too_large")
        assert str(limit) in message
    assert serve.paths == ["/generate", "/bulk"]


@pytest.mark.parametrize("length", [9_000_000, 4_294_967_297, 9_000_000_000_000])
async def test_oversized_length_is_refused_before_the_body(spec: EdgeSpec, edge: Edge, length: int) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    answer = await raw(spec, head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_too_large"


async def raw(spec: EdgeSpec, text: str) -> bytes:
    reader, writer = await asyncio.open_connection(spec.host, spec.port)
    writer.write(text.encode())
    answer = await asyncio.wait_for(reader.read(), 8)
    writer.close()
    return answer


@pytest.mark.parametrize("spec", [{"request_timeout_s": 0.3}], indirect=True)
async def test_body_that_does_not_arrive_in_time(spec: EdgeSpec, edge: Edge) -> None:
    answer = await raw(spec, f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{{")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "body_timeout"
    assert b"x-request-id: " in head


@pytest.mark.parametrize("spec", [{"request_timeout_s": 0.3}], indirect=True)
@pytest.mark.parametrize(
    ("text", "status"),
    [("nonsense\r\n\r\n", b"400"), (f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n", b"408")],
    ids=["no HTTP", "half a head"],
)
async def test_what_never_becomes_a_request(spec: EdgeSpec, edge: Edge, text: str, status: bytes) -> None:
    """HAProxy's parser answers with a page of its own, before any rule or error page of the configuration."""
    assert (await raw(spec, text)).startswith(b"HTTP/1.1 " + status)


async def test_waiting_too_long_for_a_busy_model(make_spec: MakeSpec, serve: Backend) -> None:
    spec = make_spec(limits={"m-a": ModelLimits(1, in_flight=1)}, queue_timeout_s=0.2)
    serve.hold = asyncio.Event()
    async with running_edge(spec) as client:
        first = asyncio.create_task(client.post(CHAT, json=BODY))
        await serve.arrived.wait()
        refused = await client.post(CHAT, json=BODY)
        serve.hold.set()
        await first
    assert "m-a" in assert_openai_error(refused, 429, "rate_limit_error", "queue_full")
    assert refused.headers["retry-after"] == "5"
    assert len(serve.seen) == 1


async def test_backends_own_503_after_a_wait_stays_503(make_spec: MakeSpec, serve: Backend) -> None:
    spec = make_spec(limits={"m-a": ModelLimits(1, in_flight=1)})
    serve.hold, serve.status = asyncio.Event(), 503
    async with running_edge(spec) as client:
        first = asyncio.create_task(client.post(CHAT, json=BODY))
        await serve.arrived.wait()
        second = asyncio.create_task(client.post(CHAT, json=BODY))
        await waiting(spec)
        serve.hold.set()
        assert [(await each).status_code for each in (first, second)] == [503, 503]


async def waiting(spec: EdgeSpec) -> None:
    """Until a request waits in the queue of m-a."""
    async with asyncio.timeout(5):
        while not re.search(r"^model-m-a,serve,1,", await AdminSocket(spec.workdir).ask("show stat"), re.MULTILINE):
            await asyncio.sleep(0.02)


async def test_full_queue_is_refused_at_once(make_spec: MakeSpec, serve: Backend) -> None:
    spec = make_spec(limits={"m-a": ModelLimits(1, in_flight=1, queue=1)}, queue_timeout_s=60)
    serve.hold = asyncio.Event()
    async with running_edge(spec) as client:
        first = asyncio.create_task(client.post(CHAT, json=BODY))
        await serve.arrived.wait()
        others = [asyncio.create_task(client.post(CHAT, json=BODY)) for _ in range(2)]
        done, _ = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED, timeout=5)
        (refused,) = [task.result() for task in done]
        serve.hold.set()
        statuses = [response.status_code for response in await asyncio.gather(first, *others)]
    assert_openai_error(refused, 429, "rate_limit_error", "queue_full")
    assert sorted(statuses) == [200, 200, 429]


async def test_serve_is_not_there(make_spec: MakeSpec) -> None:
    async with running("gone") as gone:
        spec = make_spec(serve_address=f"127.0.0.1:{gone.port}", connect_timeout_s=0.05)
    async with running_edge(spec) as client:
        for path, body in ((CHAT, BODY), ("/v1/models", {})):
            refused = await client.post(path, json=body)
            assert_openai_error(refused, 503, "server_error", "model_unavailable")
            assert refused.headers["retry-after"] == "5"


async def test_answers_of_the_backend_stay_as_they_are(client: httpx.AsyncClient, serve: Backend) -> None:
    for status in (400, 404, 429, 500, 503):
        serve.status = status
        response = await client.post(CHAT, json=BODY)
        assert (response.status_code, response.json()["from"]) == (status, "serve")


@pytest.mark.parametrize("spec", [{"idle_timeout_s": 0.3}], indirect=True)
async def test_silence_past_the_idle_timeout(client: httpx.AsyncClient, serve: Backend) -> None:
    serve.hold = asyncio.Event()
    refused = await client.post(CHAT, json=BODY)
    serve.hold.set()
    assert_openai_error(refused, 504, "server_error", "deadline_exceeded")


async def test_backend_breaks_off(make_spec: MakeSpec) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1") as server:
        spec = make_spec(serve_address=f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with running_edge(spec) as client:
            refused = await client.post(CHAT, json=BODY)
    assert_openai_error(refused, 502, "server_error", "engine_failed")


@pytest.mark.parametrize("spec", [{"fresh_connections": True}], indirect=True)
async def test_backend_breaks_off_after_a_request_that_went_well(client: httpx.AsyncClient, edge: Edge) -> None:
    answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"}") and answers:
                writer.write(answers.pop())
        writer.close()

    async with await asyncio.start_server(answer_once, "127.0.0.1") as server:
        await edge.set_replicas("m-a", [("127.0.0.1", server.sockets[0].getsockname()[1])])
        assert (await client.post(CHAT, json=BODY)).status_code == 200
        refused = await client.post(CHAT, json=BODY)
    assert_openai_error(refused, 502, "server_error", "engine_failed")


@pytest.mark.parametrize(("status", "shown"), [(429, 429), (500, 503), (503, 503)])
async def test_plain_refusals_of_serve_get_openais_shape(make_spec: MakeSpec, status: int, shown: int) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nbusy" % status)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1") as server:
        spec = make_spec(serve_address=f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with running_edge(spec) as client:
            for path, body in ((CHAT, BODY), ("/v1/models", {})):
                refused = await client.post(path, json=body)
                kind = ("rate_limit_error", "queue_full") if shown == 429 else ("server_error", "model_unavailable")
                assert_openai_error(refused, shown, *kind)
                assert refused.headers["retry-after"] == "5"
