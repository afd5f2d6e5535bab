"""A real HAProxy tells a real keeper of every request's end once: while the keeper is away, and through a reload."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.access.edge_lines import LINE_BYTES, PIPE, open_pipe
from app.access.keeper_app import KeeperConfig
from app.edge import Edge, EdgeSpec
from deployments.principal import SECRET_HEADER
from tests.edge.backend import Backend
from tests.edge.conftest import MakeSpec
from tests.edge.keyed import CHAT, SECRET, started
from tests.edge.sockets import exchanged, statuses
from tests.ports import own_port
from tests.waiting import PATIENCE_S, until

MANY = 300


@dataclass
class Told:
    """An edge and a keeper that lets everybody in."""

    edge: Edge
    client: httpx.AsyncClient
    config: KeeperConfig
    keeper: asyncio.subprocess.Process

    async def ask(self, model: str = "m-a") -> int:
        return (await self.client.post(CHAT, json={"model": model})).status_code

    async def ask_many(self) -> None:
        assert set(await asyncio.gather(*(self.ask() for _ in range(MANY)))) == {200}

    async def counted(self) -> int:
        """Of m-a's requests, those before this moment: lines come in order, and the one of m-b is the last."""
        before = self._requests().get("m-b", 0)
        assert await self.ask("m-b") == 200
        await asyncio.to_thread(until, lambda: self._requests().get("m-b", 0) > before, what="the last line")
        return self._requests().get("m-a", 0)

    def _requests(self) -> dict[str, int]:
        """Model -> what the keeper has counted."""
        url = f"http://127.0.0.1:{self.config.port}/v1/usage"
        rows = httpx.get(url, headers={SECRET_HEADER: SECRET}, trust_env=False, timeout=30).json()["data"]
        return {row["model"]: row["requests"] for row in rows}

    async def end_keeper(self, how: signal.Signals) -> None:
        self.keeper.send_signal(how)
        await self.keeper.wait()


@pytest.fixture
def spec(make_spec: MakeSpec) -> EdgeSpec:
    return make_spec(secret=SECRET, keeper=True, sample=0.0)


@pytest.fixture
async def client(spec: EdgeSpec) -> AsyncIterator[httpx.AsyncClient]:
    """With a connection for each of them, and more patience."""
    url, limits = f"http://{spec.host}:{spec.port}", httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE_S, limits=limits) as client:
        yield client


@pytest.fixture
async def told(spec: EdgeSpec, edge: Edge, client: httpx.AsyncClient, tmp_path: Path) -> AsyncIterator[Told]:
    usage, port = str(tmp_path / "usage.db"), own_port()
    config = KeeperConfig(str(spec.workdir), "127.0.0.1", port, SECRET, None, usage, {})
    told = Told(edge, client, config, await started(config))
    yield told
    if told.keeper.returncode is None:
        await told.end_keeper(signal.SIGKILL)


async def test_a_keeper_that_stands_still_misses_nothing(told: Told) -> None:
    told.keeper.send_signal(signal.SIGSTOP)
    await told.ask_many()
    told.keeper.send_signal(signal.SIGCONT)
    assert await told.counted() == MANY


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_what_ends_while_no_keeper_runs_waits_for_the_next(told: Told, how: signal.Signals) -> None:
    await told.end_keeper(how)
    await told.ask_many()
    assert told.edge.pid
    os.kill(told.edge.pid, signal.SIGKILL)  # nor does HAProxy's death take any away
    await told.edge.wait()
    await told.edge.start()
    told.keeper = await started(told.config)
    assert await told.counted() == MANY


@pytest.mark.parametrize("character", ['"', "\\", "/"])
async def test_the_longest_line_is_counted(told: Told, spec: EdgeSpec, character: str) -> None:
    """As long as a client can make it."""
    head = f"POST /{character * 9000} HTTP/1.1\r\nhost: x\r\nx-request-id: {'i' * 128}\r\nconnection: close\r\n"
    trace = f"traceparent: 00-{'a' * 32}-{'b' * 16}-00\r\ncontent-length: 0\r\n\r\n"
    assert statuses(await exchanged(spec, f"{head}{trace}".encode())) == [200]
    await told.counted()
    (line,) = (each for each in (spec.workdir / "edge.log").read_bytes().splitlines() if b"iiii" in each)
    assert 600 < len(line) < LINE_BYTES
    assert sum(told._requests().values()) == 2


async def test_who_ends_after_a_reload_is_told_of_once(told: Told, spec: EdgeSpec, serve: Backend) -> None:
    serve.hold = asyncio.Event()
    asked = asyncio.create_task(told.ask())
    await serve.arrived.wait()
    await told.edge.reload(spec)
    assert told.edge.older == 1
    serve.hold.set()
    assert await asked == 200
    assert await told.ask() == 200
    assert await told.counted() == 2


async def test_the_last_requests_of_an_edge_that_stops_are_told_of(told: Told, serve: Backend) -> None:
    serve.hold = asyncio.Event()
    asked = asyncio.create_task(told.ask())
    await serve.arrived.wait()
    told.keeper.send_signal(signal.SIGSTOP)
    stopping = asyncio.create_task(told.edge.stop(drain_s=20))
    serve.hold.set()
    await stopping
    assert await asked == 200
    told.keeper.send_signal(signal.SIGTERM)
    told.keeper.send_signal(signal.SIGCONT)
    assert await told.keeper.wait() == 0
    told.keeper = await started(told.config)
    assert told._requests() == {"m-a": 1}


async def test_a_full_pipe_holds_nobody_up_and_what_it_did_not_take_is_counted(told: Told, spec: EdgeSpec) -> None:
    told.keeper.send_signal(signal.SIGSTOP)
    pipe = open_pipe(spec.workdir / PIPE)
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
    os.close(pipe)
    await told.ask_many()
    info = await told.edge._admin.ask("show info")
    dropped = re.search(r"^DroppedLogs: (\d+)$", info, re.MULTILINE)
    assert dropped
    told.keeper.send_signal(signal.SIGCONT)
    counted = await told.counted()
    assert 0 < counted == MANY - int(dropped[1])
