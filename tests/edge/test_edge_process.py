"""The process: what it opens and writes, its replicas at runtime, reload, death, and its word when it cannot start."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import select
import signal
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from app.edge import Edge, EdgeError, EdgeSpec, ModelLimits
from app.ports import taken
from tests.edge.backend import Backend, running
from tests.edge.conftest import Cert, MakeSpec
from tests.waiting import eventually

CHAT = "/v1/chat/completions"
BODY = {"model": "m-a"}


async def who(client: httpx.AsyncClient, model: str = "m-a") -> str:
    response = await client.post(CHAT, json={"model": model})
    assert response.status_code == 200, response.text
    return str(response.json()["from"])


@pytest.fixture
async def replicas() -> AsyncIterator[list[Backend]]:
    async with running("one") as one, running("two") as two:
        yield [one, two]


def addresses(backends: list[Backend]) -> list[tuple[str, int]]:
    return [("127.0.0.1", each.port) for each in backends]


async def test_replicas_are_used_when_set_and_serve_when_not(
    client: httpx.AsyncClient, edge: Edge, serve: Backend, replicas: list[Backend]
) -> None:
    assert await who(client) == "serve"
    await edge.set_replicas("m-a", addresses(replicas))
    assert {await who(client) for _ in range(8)} == {"one", "two"}
    assert set(replicas[0].paths) == {f"/models/m-a{CHAT}"}
    assert await who(client, "m-b") == "serve"
    await edge.set_replicas("m-a", addresses(replicas[1:]))
    assert {await who(client) for _ in range(4)} == {"two"}
    await edge.set_replicas("m-a", [])
    assert await who(client) == "serve"


async def test_stream_goes_on_when_its_replica_is_taken_out(
    client: httpx.AsyncClient, edge: Edge, replicas: list[Backend]
) -> None:
    await edge.set_replicas("m-a", addresses(replicas[:1]))
    async with client.stream("POST", f"{CHAT}?stream=1", json=BODY) as response:
        await edge.set_replicas("m-a", addresses(replicas[1:]))
        assert await who(client) == "two"
        replicas[0].more.put_nowait("still here")
        replicas[0].more.put_nowait("end")
        assert await response.aread() == b"data: still here\n\n"


async def test_dead_replica_is_skipped_without_an_error_and_used_again(
    client: httpx.AsyncClient, edge: Edge, replicas: list[Backend]
) -> None:
    async with running("mortal") as mortal:
        await edge.set_replicas("m-a", addresses([mortal, replicas[0]]))
        assert {await who(client) for _ in range(6)} == {"mortal", "one"}
    assert {await who(client) for _ in range(6)} == {"one"}
    assert (await edge.health())["model-m-a/r1"].startswith("DOWN")
    async with running("back", mortal.port):
        async with asyncio.timeout(5):
            while await who(client) != "back":
                await asyncio.sleep(0.05)


async def test_last_replica_dead_means_serve(client: httpx.AsyncClient, edge: Edge) -> None:
    async with running("mortal") as mortal:
        await edge.set_replicas("m-a", addresses([mortal]))
        assert await who(client) == "mortal"
    assert [await who(client) for _ in range(3)] == ["serve"] * 3


async def test_replica_that_drains_gets_no_new_requests(
    client: httpx.AsyncClient, edge: Edge, replicas: list[Backend]
) -> None:
    await edge.set_replicas("m-a", addresses(replicas))
    replicas[0].healthy = False
    async with asyncio.timeout(10):
        while not (await edge.health())["model-m-a/r1"].startswith("DOWN"):
            await asyncio.sleep(0.05)
    assert {await who(client) for _ in range(4)} == {"two"}


async def test_more_replicas_than_slots(make_spec: MakeSpec, replicas: list[Backend]) -> None:
    spec = make_spec(limits={"m-a": ModelLimits(replicas=1)})
    edge = Edge(spec)
    await edge.start()
    try:
        await edge.set_replicas("m-a", addresses(replicas))
        assert list(await edge.health()) == ["model-m-a/r1"]
    finally:
        await edge.stop(1)


async def test_model_that_is_not_routed_is_the_gateways(client: httpx.AsyncClient, edge: Edge, serve: Backend) -> None:
    for routed in (False, False, True, True):
        await edge.set_model("m-a", routed)
        await who(client)
        await who(client, "m-a.lora")
    here, there = f"/models/m-a{CHAT}", CHAT
    assert serve.paths == [there, here, there, here, here, here, here, here]


async def test_unknown_names_and_addresses_are_refused(edge: Edge) -> None:
    with pytest.raises(EdgeError, match=r"no model 'x' here; there are m-a, m-a.lora, m-b"):
        await edge.set_model("x", True)
    with pytest.raises(EdgeError, match=r"no model 'm-a\.lora' here; there are m-a, m-b"):
        await edge.set_replicas("m-a.lora", [])
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        await edge.set_replicas("m-a", [("127.0.0.1; shutdown frontend edge", 1)])


async def test_what_was_set_outlives_death(
    client: httpx.AsyncClient, edge: Edge, serve: Backend, replicas: list[Backend]
) -> None:
    await edge.set_model("m-b", False)
    await edge.set_replicas("m-a", addresses(replicas[:1]))
    assert edge.pid
    os.kill(edge.pid, signal.SIGKILL)
    assert await asyncio.wait_for(edge.wait(), 5) == -signal.SIGKILL
    assert edge.pid is None
    await edge.set_replicas("m-a", addresses(replicas[1:]))
    await edge.start()
    assert await who(client) == "two"
    await who(client, "m-b")
    assert serve.paths == [CHAT]


async def test_reload_refuses_no_connection_and_breaks_no_stream(
    client: httpx.AsyncClient, edge: Edge, spec: EdgeSpec, serve: Backend, replicas: list[Backend]
) -> None:
    await edge.set_replicas("m-a", addresses(replicas[:1]))
    waiting = asyncio.create_task(edge.wait())
    asked, over = 0, asyncio.Event()

    async def ask_without_end() -> None:
        nonlocal asked
        while not over.is_set():
            reader, writer = await asyncio.open_connection(spec.host, spec.port)
            writer.write(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
            asked += 1

    load = asyncio.gather(*(ask_without_end() for _ in range(4)))
    async with client.stream("POST", f"{CHAT}?stream=1", json={"model": "m-b"}) as response:
        before = edge.pid
        for name in ("newer", "newest", "new"):
            await edge.reload(replace(spec, models=(*spec.models, (name, name))))
        assert edge.pid not in (None, before)
        over.set()
        await load
        assert asked > 20
        async with httpx.AsyncClient(base_url=client.base_url, trust_env=False) as fresh:
            await who(fresh, "new")
            assert await who(fresh) == "one"
        serve.more.put_nowait("old")
        serve.more.put_nowait("end")
        assert await response.aread() == b"data: old\n\n"
    assert serve.paths[-1] == f"/models/new{CHAT}"
    assert not waiting.done()
    await edge.stop(1)
    await asyncio.wait_for(waiting, 5)


async def test_no_connection_in_use_is_closed_by_a_reload_without_a_word(edge: Edge, spec: EdgeSpec) -> None:
    over, opened, unsaid = asyncio.Event(), 0, 0

    async def use_again_and_again() -> None:
        nonlocal opened, unsaid
        while not over.is_set():
            opened += 1
            with contextlib.closing(http.client.HTTPConnection(spec.host, spec.port, timeout=10)) as connection:
                while not over.is_set():
                    try:
                        said = await asyncio.to_thread(asked_on, connection)
                    except (OSError, http.client.HTTPException):
                        unsaid += 1
                        break
                    if said == "close":
                        break
                    await asyncio.sleep(0.02)

    users = asyncio.gather(*(use_again_and_again() for _ in range(4)))
    for _ in range(3):
        await edge.reload(spec)
        await asyncio.sleep(0.1)
    over.set()
    await users
    assert unsaid == 0
    assert opened >= 4 * 4


def asked_on(connection: http.client.HTTPConnection) -> str | None:
    """What the answer says of the connection."""
    if connection.sock and select.select([connection.sock], [], [], 0)[0]:
        raise ConnectionResetError("closed while nobody asked")
    connection.request("GET", "/health")
    with connection.getresponse() as response:
        assert response.status == 200
        response.read()
        return response.getheader("connection")


async def test_refused_reload_leaves_the_old_one(client: httpx.AsyncClient, edge: Edge, spec: EdgeSpec) -> None:
    before = edge.pid
    with pytest.raises(EdgeError, match="tls"):
        await edge.reload(replace(spec, tls_cert=Path("/nonexistent/tls.pem")))
    with pytest.raises(EdgeError, match="host, port and workdir"):
        await edge.reload(replace(spec, port=spec.port + 1))
    assert edge.pid == before
    assert await who(client) == "serve"
    assert "connection" not in (await client.get("/health")).headers


async def test_only_the_port_listens_and_files_are_private(edge: Edge, spec: EdgeSpec) -> None:
    assert edge.pid
    process = psutil.Process(edge.pid)
    inet = process.net_connections("inet")
    assert [(each.laddr.ip, each.laddr.port) for each in inet] == [(spec.host, spec.port)]
    assert os.getpgid(edge.pid) == edge.pid
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in spec.workdir.iterdir()}
    assert modes.keys() == {"admin.sock", "edge.log", "flags.map", "haproxy.cfg", "models.map", "edge.lua", "keys.map"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(spec.workdir.stat().st_mode) == 0o700


async def test_long_log_is_kept_once_and_begun_again(edge: Edge, spec: EdgeSpec, client: httpx.AsyncClient) -> None:
    log = spec.workdir / "edge.log"
    assert await who(client) == "serve"
    await eventually(lambda: '"status":200' in log.read_text())
    edge.rotate_log(limit=1 << 20)
    assert not log.with_name("edge.1.log").exists()
    edge.rotate_log(limit=1)
    kept = log.with_name("edge.1.log")
    assert '"status":200' in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert await who(client) == "serve"
    await eventually(lambda: '"status":200' in log.read_text())
    assert log.read_bytes()[:1] != b"\0"


async def test_before_and_after_a_reload_no_line_is_written_over_another(
    edge: Edge, spec: EdgeSpec, client: httpx.AsyncClient, serve: Backend
) -> None:
    log = spec.workdir / "edge.log"
    for _ in range(5):
        serve.hold = hold = asyncio.Event()
        serve.arrived.clear()
        asked = asyncio.create_task(who(client))
        await serve.arrived.wait()
        await edge.reload(spec)
        assert edge.older
        serve.hold = None
        async with httpx.AsyncClient(base_url=client.base_url, trust_env=False) as other:
            assert await who(other) == "serve"
            hold.set()
            assert await asked == "serve"
            assert await who(other) == "serve"
    await eventually(lambda: log.read_text().count('"status":200') == 15)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert [line["status"] for line in lines if line["path"] == CHAT] == [200] * 15


async def test_folder_that_others_can_read_is_closed_and_a_long_path_works(make_spec: MakeSpec, tmp_path: Path) -> None:
    workdir = tmp_path / ("a b" * 40)
    workdir.mkdir(mode=0o755)
    edge = Edge(make_spec(workdir=workdir))
    await edge.start()
    await edge.stop(1)
    assert stat.S_IMODE(workdir.stat().st_mode) == 0o700


async def test_taken_port_is_named(make_spec: MakeSpec) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EdgeError, match=rf"127\.0\.0\.1:{port}: Address already in use.*edge\.port"):
            await Edge(make_spec(port=port)).start()


async def test_two_edges_never_share_a_port(edge: Edge, make_spec: MakeSpec, spec: EdgeSpec, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="already in use"):
        await Edge(make_spec(port=spec.port, workdir=tmp_path / "other")).start()
    with pytest.raises(EdgeError, match="runs already"):
        await edge.start()


async def test_refused_configuration_and_missing_binary_are_named(make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="unable to stat SSL certificate"):
        await Edge(make_spec(tls_cert=tmp_path / "no.pem")).start()
    with pytest.raises(EdgeError, match="/no/haproxy cannot be run"):
        await Edge(make_spec(), binary="/no/haproxy").start()
    broken = tmp_path / "haproxy"
    broken.write_text("#!/bin/sh\nif [ $1 = -c ]; then exit 0; fi\necho '[ALERT]    (1) : no luck'\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(EdgeError, match="did not start: no luck"):
        await Edge(make_spec(), binary=str(broken)).start()


async def test_stop_lets_streams_end_and_cuts_them_after_its_patience(
    client: httpx.AsyncClient, edge: Edge, spec: EdgeSpec, serve: Backend
) -> None:
    async with client.stream("POST", f"{CHAT}?stream=1", json=BODY) as response:
        stopping = asyncio.create_task(edge.stop(drain_s=20))
        while taken(spec.port):
            await asyncio.sleep(0.02)
        serve.more.put_nowait("last")
        serve.more.put_nowait("end")
        assert await response.aread() == b"data: last\n\n"
    await asyncio.wait_for(stopping, 10)
    assert edge.pid is None
    await edge.start()
    async with client.stream("POST", f"{CHAT}?stream=1", json=BODY):
        await asyncio.wait_for(edge.stop(drain_s=0.1), 5)
    assert edge.pid is None


async def test_tls(make_spec: MakeSpec, cert: Cert) -> None:
    spec = make_spec(tls_cert=cert.path)
    edge = Edge(spec)
    await edge.start()
    try:
        async with httpx.AsyncClient(
            verify=cert.context, trust_env=False, base_url=f"https://127.0.0.1:{spec.port}"
        ) as client:
            assert await who(client) == "serve"
    finally:
        await edge.stop(1)
