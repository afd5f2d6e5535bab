"""The end of a service: it says so, takes nothing new, or passes it on to its successor; what is under way goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from app.edge import Edge, EdgeError, EdgeMode, EdgeSpec, ModelLimits
from app.edge_config import Address
from tests.edge.backend import Backend, running
from tests.edge.conftest import Cert, MakeSpec
from tests.ports import own_port
from tests.waiting import eventually

CHAT = "/v1/chat/completions"
STREAM = f"{CHAT}?stream=1"
BODY = {"model": "m-a"}
LEAVING = {"ready": False, "draining": True, "models": {}}
ENDS = {
    "message": "This service is about to end and takes no new requests; "
    "its successor's address is in the address file.",
    "type": "server_error",
    "param": None,
    "code": "draining",
}


@dataclass
class Successor:
    """Another edge, and what stands behind it."""

    edge: Edge
    address: Address
    serve: Backend


@asynccontextmanager
async def succeeding(spec: EdgeSpec, folder: Path) -> AsyncIterator[Successor]:
    async with running("successor") as serve:
        port = own_port()
        edge = Edge(replace(spec, port=port, workdir=folder, serve_address=f"127.0.0.1:{serve.port}"))
        await edge.start()
        try:
            yield Successor(edge, ("127.0.0.1", port), serve)
        finally:
            await edge.stop(1)


@pytest.fixture
async def successor(spec: EdgeSpec, tmp_path: Path) -> AsyncIterator[Successor]:
    async with succeeding(spec, tmp_path / "successor") as each:
        yield each


async def who(client: httpx.AsyncClient, method: str = "POST", path: str = CHAT) -> str:
    response = await client.request(method, path, json=BODY if method == "POST" else None)
    assert response.status_code == 200, response.text
    return str(response.json()["from"])


def assert_ends(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert response.json() == {"error": ENDS}
    assert response.headers["content-type"] == "application/json"
    assert response.headers["retry-after"] == "5"
    assert response.headers["connection"] == "close"
    assert len(response.headers["x-request-id"]) == 36


def assert_leaving(response: httpx.Response) -> None:
    assert (response.status_code, response.headers["content-type"]) == (503, "application/json")
    assert response.json() == LEAVING


@pytest.mark.parametrize("mode", [EdgeMode.DRAINING, EdgeMode.CLOSED, EdgeMode.MOVED])
async def test_what_is_under_way_goes_on(
    client: httpx.AsyncClient, edge: Edge, serve: Backend, successor: Successor, mode: EdgeMode
) -> None:
    serve.hold = asyncio.Event()
    waiting = asyncio.create_task(who(client))
    async with client.stream("POST", STREAM, json=BODY) as response:
        await eventually(lambda: len(serve.seen) == 2)
        assert await edge.requests() == 2
        events = response.aiter_text()
        await edge.set_mode(mode, successor.address if mode is EdgeMode.MOVED else None)
        for number in range(3):
            serve.more.put_nowait(str(number))
            assert await asyncio.wait_for(anext(events), 5) == f"data: {number}\n\n"
        serve.more.put_nowait("end")
        assert [event async for event in events] == []
    assert await edge.requests() == 1
    serve.hold.set()
    assert await waiting == "serve"
    assert await edge.requests() == 0


async def test_draining_says_so_and_serves_all(client: httpx.AsyncClient, edge: Edge, serve: Backend) -> None:
    await edge.set_mode(EdgeMode.DRAINING)
    assert_leaving(await client.get("/ready"))
    assert (await client.head("/ready")).status_code == 503
    assert await who(client) == "serve"
    for path in ("/health", "/metrics", "/v1/models", "/readyz"):
        assert await who(client, "GET", path) == "serve"
    await edge.set_mode(EdgeMode.OPEN)
    assert await who(client, "GET", "/ready") == "serve"


async def test_closed_takes_nothing_new(client: httpx.AsyncClient, edge: Edge, serve: Backend) -> None:
    await edge.set_mode(EdgeMode.CLOSED)
    assert_ends(await client.post(CHAT, json=BODY))
    assert_ends(await client.post(CHAT, content=b"x" * 7_000_000))  # sent before the answer is read
    for method, path in (("GET", "/v1/models"), ("GET", "/"), ("POST", "/bulk"), ("GET", "/models/m-a"), ("PUT", "/x")):
        assert_ends(await client.request(method, path))
    assert (await client.head("/v1/models")).status_code == 503
    assert_ends(await client.post(CHAT, json=BODY, headers={"expect": "100-continue"}))
    assert_leaving(await client.get("/ready"))
    assert serve.seen == []
    assert [await who(client, "GET", path) for path in ("/health", "/metrics")] == ["serve"] * 2
    await edge.set_mode(EdgeMode.OPEN)
    assert await who(client) == "serve"


async def test_a_length_that_nobody_will_read_is_refused_when_closed(edge: Edge, spec: EdgeSpec) -> None:
    await edge.set_mode(EdgeMode.CLOSED)
    reader, writer = await asyncio.open_connection(spec.host, spec.port)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000000000\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 5)  # to its end: the connection is closed
    writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == ENDS


BODIES = {"small": 10, "past half a buffer": 300_000, "near a buffer": (512 << 10) - 200, "large": 7_000_000}


@pytest.mark.parametrize("size", BODIES.values(), ids=BODIES)
async def test_moved_passes_bodies_on_as_they_came(
    client: httpx.AsyncClient, edge: Edge, serve: Backend, successor: Successor, size: int
) -> None:
    await edge.set_mode(EdgeMode.MOVED, successor.address)
    sent = json.dumps({"model": "m-a", "messages": "x" * size}).encode()
    headers = {"authorization": "Bearer me", "x-request-id": "my-id.1", "x-own": "a, b"}
    response = await client.post(f"{CHAT}?a=%20b", content=sent, headers=headers)
    assert (response.status_code, response.json()["from"]) == (200, "successor")
    assert response.headers.get_list("x-request-id") == ["my-id.1"]
    (seen,) = successor.serve.seen
    assert (seen.path, seen.body) == (f"/models/m-a{CHAT}", sent)
    assert [seen.all(name) for name in headers] == [[value] for value in headers.values()]
    assert seen.all("host") == [client.base_url.netloc.decode()]
    assert serve.seen == []


async def test_moved_passes_paths_and_bodies_without_a_length_on(edge: Edge, spec: EdgeSpec, serve: Backend) -> None:
    """To a plain server, which sees what the successor would."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(700):
            yield b"x" * 1000

    async with running("next") as plain:
        await edge.set_mode(EdgeMode.MOVED, ("127.0.0.1", plain.port))
        async with httpx.AsyncClient(base_url=f"http://{spec.host}:{spec.port}", trust_env=False) as client:
            for path in ("/v1/tokenize", "/models/m-a", "/ready", "/health", "/metrics", "/bulk/a%2Fb"):
                assert await who(client, "POST", path) == "next"
            await client.post(CHAT, content=pieces())
            await client.post(CHAT, content=b"x" * 9_000_000, headers={"expect": "100-continue"})
    assert plain.paths == [
        "/v1/tokenize", "/models/m-a", "/ready", "/health", "/metrics", "/bulk/a%2Fb", CHAT, CHAT,
    ]  # fmt: skip
    assert [len(each.body) for each in plain.seen[-2:]] == [700_000, 9_000_000]
    assert len(plain.seen[0].all("x-request-id")) == 1
    assert serve.seen == []


async def test_moved_streams_and_notices_who_leaves(
    client: httpx.AsyncClient, edge: Edge, successor: Successor
) -> None:
    await edge.set_mode(EdgeMode.MOVED, successor.address)
    async with client.stream("POST", STREAM, json=BODY) as response:
        events = response.aiter_text()
        for number in range(3):  # the backend sends nothing more until the client has this one
            successor.serve.more.put_nowait(str(number))
            assert await asyncio.wait_for(anext(events), 5) == f"data: {number}\n\n"
        assert await edge.requests() == await successor.edge.requests() == 1
    await asyncio.wait_for(successor.serve.left.wait(), 5)


async def test_moved_shows_the_successors_own_refusals_and_its_absence(
    client: httpx.AsyncClient, edge: Edge, successor: Successor
) -> None:
    await edge.set_mode(EdgeMode.MOVED, successor.address)
    await successor.edge.set_mode(EdgeMode.CLOSED)
    refused = await client.post(CHAT, json=BODY)
    assert (refused.status_code, refused.json()) == (503, {"error": ENDS})
    assert_leaving(await client.get("/ready"))
    await successor.edge.stop(0.1)
    gone = await client.post(CHAT, json=BODY)
    assert (gone.status_code, gone.json()["error"]["code"]) == (503, "model_unavailable")


async def test_moved_again_and_back(
    client: httpx.AsyncClient, edge: Edge, spec: EdgeSpec, successor: Successor, tmp_path: Path
) -> None:
    async with succeeding(spec, tmp_path / "third") as third:
        await edge.set_mode(EdgeMode.MOVED, successor.address)
        assert await who(client) == "successor"
        successor.serve.hold = asyncio.Event()
        waiting = asyncio.create_task(who(client))
        await eventually(lambda: len(successor.serve.seen) == 2)
        await edge.set_mode(EdgeMode.MOVED, third.address)
        successor.serve.hold.set()
        assert await waiting == "successor"
        third.serve.name = "third"
        assert [await who(client) for _ in range(3)] == ["third"] * 3
        await edge.set_mode(EdgeMode.OPEN)
        assert await who(client) == "serve"


async def test_moved_with_tls(make_spec: MakeSpec, cert: Cert, tmp_path: Path) -> None:
    spec = make_spec(tls_cert=cert.path)
    edge = Edge(spec)
    await edge.start()
    try:
        async with (
            succeeding(spec, tmp_path / "successor") as successor,
            httpx.AsyncClient(
                verify=cert.context, trust_env=False, base_url=f"https://{spec.host}:{spec.port}"
            ) as client,
        ):
            await edge.set_mode(EdgeMode.MOVED, successor.address)
            assert await who(client) == "successor"
    finally:
        await edge.stop(1)


async def test_modes_and_their_successors(edge: Edge, client: httpx.AsyncClient) -> None:
    with pytest.raises(EdgeError, match="mode moved takes a successor, got None"):
        await edge.set_mode(EdgeMode.MOVED)
    with pytest.raises(EdgeError, match="mode closed takes no successor"):
        await edge.set_mode(EdgeMode.CLOSED, ("127.0.0.1", 1))
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        await edge.set_mode(EdgeMode.MOVED, ("localhost", 1))
    with pytest.raises(ValueError, match="from 1 to 65535"):
        await edge.set_mode(EdgeMode.MOVED, ("127.0.0.1", 70_000))
    assert await who(client) == "serve"


async def test_no_request_fails_while_the_mode_changes(
    edge: Edge, spec: EdgeSpec, serve: Backend, successor: Successor
) -> None:
    asked, over = 0, asyncio.Event()

    async def ask_without_end() -> None:
        nonlocal asked
        async with httpx.AsyncClient(base_url=f"http://{spec.host}:{spec.port}", trust_env=False) as client:
            while not over.is_set():
                await who(client)
                asked += 1

    load = asyncio.gather(*(ask_without_end() for _ in range(4)))
    for _ in range(10):
        await edge.set_mode(EdgeMode.DRAINING)
        await edge.set_mode(EdgeMode.MOVED, successor.address)
        await edge.set_mode(EdgeMode.MOVED, successor.address)
        await asyncio.sleep(0.02)
        await edge.set_mode(EdgeMode.OPEN)
    over.set()
    await load
    assert serve.seen
    assert successor.serve.seen
    assert asked == len(serve.seen) + len(successor.serve.seen)


@pytest.mark.parametrize("mode", [EdgeMode.DRAINING, EdgeMode.CLOSED, EdgeMode.MOVED])
async def test_mode_outlives_reload_and_death(edge: Edge, spec: EdgeSpec, successor: Successor, mode: EdgeMode) -> None:
    await edge.set_mode(mode, successor.address if mode is EdgeMode.MOVED else None)
    await edge.reload(replace(spec, models=(*spec.models, ("new", "new"))))
    await assert_mode(spec, mode)
    assert edge.pid
    os.kill(edge.pid, signal.SIGKILL)
    await asyncio.wait_for(edge.wait(), 5)
    await edge.start()
    await assert_mode(spec, mode)


async def test_mode_set_while_it_is_dead(edge: Edge, spec: EdgeSpec, successor: Successor) -> None:
    assert edge.pid
    os.kill(edge.pid, signal.SIGKILL)
    await asyncio.wait_for(edge.wait(), 5)
    await edge.set_mode(EdgeMode.MOVED, successor.address)
    assert await edge.requests() == 0
    await edge.start()
    await assert_mode(spec, EdgeMode.MOVED)


async def assert_mode(spec: EdgeSpec, mode: EdgeMode) -> None:
    async with httpx.AsyncClient(base_url=f"http://{spec.host}:{spec.port}", trust_env=False) as client:
        if mode is EdgeMode.MOVED:
            assert await who(client, "GET", "/ready") == "successor"
        else:
            assert_leaving(await client.get("/ready"))
        if mode is EdgeMode.CLOSED:
            assert_ends(await client.post(CHAT, json=BODY))
        else:
            assert await who(client) == ("successor" if mode is EdgeMode.MOVED else "serve")


async def test_process_of_before_a_reload_counts_until_it_ends(
    client: httpx.AsyncClient, edge: Edge, spec: EdgeSpec, serve: Backend
) -> None:
    async with client.stream("POST", STREAM, json=BODY):
        await edge.reload(spec)
        assert await edge.requests() == 1


@pytest.fixture
async def replicas() -> AsyncIterator[list[Backend]]:
    async with running("one") as one, running("two") as two:
        yield [one, two]


@pytest.mark.parametrize(
    "spec", [{"limits": {"m-a": ModelLimits(replicas=1)}, "fresh_connections": True}], indirect=True
)
@pytest.mark.parametrize("order", ["drop first", "taken out first", "slot has another by now"])
async def test_requests_of_a_dead_node_end_at_once(
    client: httpx.AsyncClient, edge: Edge, serve: Backend, replicas: list[Backend], order: str
) -> None:
    (one, two), (dead, alive) = replicas, [("127.0.0.1", each.port) for each in replicas]
    await edge.set_replicas("m-a", [dead])
    assert [await who(client) for _ in range(2)] == ["one"] * 2
    one.hold, two.hold = asyncio.Event(), asyncio.Event()
    hanging = asyncio.create_task(client.post(CHAT, json=BODY))
    await eventually(lambda: len(one.seen) == 3)
    async with client.stream("POST", STREAM, json=BODY) as stream:
        others = [asyncio.create_task(client.post(CHAT, json={"model": "m-b"}))]
        if order != "drop first":
            await edge.set_replicas("m-a", [])
        if order == "slot has another by now":
            await edge.set_replicas("m-a", [alive])
            others.append(asyncio.create_task(client.post(CHAT, json=BODY)))
            await two.arrived.wait()
        await edge.drop_sessions("m-a", dead)
        async with asyncio.timeout(1):
            refused = await hanging
            with pytest.raises(httpx.RemoteProtocolError):
                await stream.aread()
    assert refused.status_code == 502
    assert refused.json()["error"]["code"] == "engine_failed"
    assert refused.json()["error"]["type"] == "server_error"
    assert refused.headers["content-type"] == "application/json"
    assert len(one.seen) == 4
    two.hold.set()
    assert {(await other).status_code for other in others} == {200}


async def test_drop_leaves_other_replicas_alone_and_sends_nothing_more_there(
    client: httpx.AsyncClient, edge: Edge, replicas: list[Backend]
) -> None:
    dead, alive = addresses = [("127.0.0.1", each.port) for each in replicas]
    over = replicas[0].hold = replicas[1].hold = asyncio.Event()
    await edge.set_replicas("m-a", addresses)
    asked = [asyncio.create_task(client.post(CHAT, json=BODY)) for _ in range(8)]
    await eventually(lambda: [len(each.seen) for each in replicas] == [4, 4])
    await edge.drop_sessions("m-b", dead)
    await edge.drop_sessions("m-a", ("127.0.0.1", 9))
    assert not any(each.done() for each in asked)
    await edge.drop_sessions("m-a", dead)
    await eventually(lambda: len(replicas[1].seen) == 8)  # what it had not answered is asked of the other one
    asked.append(asyncio.create_task(client.post(CHAT, json=BODY)))
    await eventually(lambda: len(replicas[1].seen) == 9)
    over.set()
    assert {(await each).status_code for each in asked} == {200}
    assert len(replicas[0].seen) == 4
    assert list(await edge.health()) == ["model-m-a/r2"]
    with pytest.raises(EdgeError, match="no model 'x' here"):
        await edge.drop_sessions("x", alive)
