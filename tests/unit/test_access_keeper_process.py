"""The keeper as the process that it is: it is killed, ends, and goes on from what was counted."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from app.access.edge_lines import PIPE, HeldPipe
from app.access.keeper_app import SOCKET, KeeperConfig
from app.access.key_store import KeyStore
from app.access.ledger import Ledger
from app.access.limits import Limits
from tests.unit.access_fakes import INSIDE, ROOT, SECRET, asking
from tests.waiting import until


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Running:
    """Keepers in one folder, one after the other, with one key."""

    folder: Path
    usage: Path
    keys: Path
    key: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @contextmanager
    def start(self, folder: str = "edge") -> Iterator[httpx.Client]:
        """A client of its port; it answers already."""
        place = self.folder / folder
        place.mkdir(exist_ok=True)
        config = KeeperConfig(str(place), "127.0.0.1", free_port(), SECRET, str(self.keys), str(self.usage), {})
        command = [sys.executable, "-m", "app.access.keeper_app"]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdin
        process.stdin.write(config.to_json().encode() + b"\n")
        process.stdin.close()
        with client_at(config.port) as client:
            until(lambda: process.poll() is None and answers(client), what="the keeper's answer")
            yield client

    def edge(self) -> httpx.Client:
        """A client of the socket that the edge asks."""
        transport = httpx.HTTPTransport(uds=str(self.folder / "edge" / SOCKET))
        return httpx.Client(transport=transport, base_url="http://keeper")

    def end(self, how: signal.Signals) -> int:
        self.processes[-1].send_signal(how)
        return self.processes[-1].wait(30)

    def told(self, *requests: str, folder: str = "edge") -> None:
        """The edge tells of the ends of these."""
        for request in requests:
            line = {"uid": request, "method": "POST", "path": "/", "key": self.key, "model": "llama", "status": 200}
            tell(self.folder / folder / PIPE, json.dumps(line).encode())


def tell(path: Path, line: bytes) -> None:
    edge = HeldPipe(path)
    os.write(edge.opened(), line + b"\n")
    edge.close()


def client_at(port: int) -> httpx.Client:
    """The service's own, of replicas' port."""
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=INSIDE, trust_env=False)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/metrics").is_success
    except httpx.HTTPError:
        return False


def requests_in(client: httpx.Client) -> int:
    return sum(row["requests"] for row in client.get("/v1/usage").json()["data"])


def written(path: Path) -> int:
    """Requests that the file has."""
    with closing(sqlite3.connect(path)) as ledger:
        found: int | None = ledger.execute("SELECT sum(requests) FROM usage").fetchone()[0]
    return found or 0


def copies(running: Running) -> list[Path]:
    """From the oldest on."""
    return sorted(running.usage.parent.glob("usage.*.db"), key=lambda each: each.stat().st_mtime_ns)


@pytest.fixture
def running() -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="k-") as folder:  # the names of sockets must be short
        keys = Path(folder) / "keys.json"
        record, _ = KeyStore(keys).create("alice", limits=Limits(requests_per_minute=1))
        made = Running(Path(folder), Path(folder) / "kept" / "usage.db", keys, record.id)
        yield made
        for process in made.processes:
            process.kill()
            process.wait()


def test_it_answers_the_edge_and_replicas_and_takes_log_lines(running: Running) -> None:
    with running.start() as client:
        with running.edge() as local:
            assert local.get("/admit", headers=asking(running.key)).status_code == 200
            assert local.get("/admit", headers=asking(running.key, **{"x-request": "r2"})).status_code == 429
            assert local.get("/v1/usage").status_code == 401
        running.told("r1")
        tell(running.folder / "edge" / PIPE, b"\xff garbage")
        running.told("r2")
        until(lambda: requests_in(client) == 2, what="both lines")
    modes = {name: stat.S_IMODE((running.folder / "edge" / name).stat().st_mode) for name in (SOCKET, PIPE)}
    assert modes == {SOCKET: 0o600, PIPE: 0o600}


def test_a_key_that_is_revoked_is_refused_soon(running: Running) -> None:
    with running.start() as client:
        KeyStore(running.keys).revoke(running.key)
        headers = asking(running.key, **{"x-method": "GET"})
        until(lambda: client.get("/admit", headers=headers).status_code == 401, what="the refusal")


def test_on_term_it_leaves_a_copy_that_the_next_goes_on_from(running: Running) -> None:
    with running.start() as client:
        running.told("r1", "r2", "r3")
        until(lambda: requests_in(client) == 3, what="all lines")
        assert running.end(signal.SIGTERM) == 0
    (copy,) = copies(running)
    assert written(copy) == 3
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with running.start("another") as client:
        assert requests_in(client) == 3
        running.told("r4", folder="another")
        until(lambda: requests_in(client) == 4, what="one more")
        running.end(signal.SIGTERM)
    assert [written(each) for each in copies(running)] == [3, 4]


def test_a_job_that_ends_after_its_successor_loses_nothing(running: Running) -> None:
    with running.start("job") as job:
        running.told("r1", folder="job")
        until(lambda: requests_in(job) == 1, what="the first line")
        with running.start("successor") as successor:
            for number in range(3):
                running.told(f"r2{number}", folder="job")
                running.told(f"r3{number}", folder="successor")
            until(lambda: requests_in(job) == 4, what="the job's lines")
            until(lambda: requests_in(successor) == 3, what="the successor's lines")
            for process in reversed(running.processes):
                process.terminate()
                assert process.wait(30) == 0
    with running.start("next") as client:
        assert requests_in(client) == 7


def test_killed_it_loses_at_most_what_was_not_written(running: Running) -> None:
    ledger = running.folder / "edge" / "usage.db"
    with running.start():
        running.told("r1", "r2")
        until(lambda: written(ledger) == 2, what="the ledger")
        running.told("r3")
        assert running.end(signal.SIGKILL) == -signal.SIGKILL
    with running.start() as client:
        assert requests_in(client) in (2, 3)
        with running.edge() as local:
            assert local.get("/admit", headers=asking(running.key)).status_code == 200
        before = requests_in(client)
        running.told("r4")
        until(lambda: requests_in(client) == before + 1, what="a line after the kill")


PARENT = """\
import subprocess, sys
keeper = subprocess.Popen([sys.executable, "-m", "app.access.keeper_app"], stdin=subprocess.PIPE)
keeper.stdin.write(sys.stdin.readline().encode())
keeper.stdin.close()
keeper.wait()
"""


def test_it_ends_with_its_parent(running: Running) -> None:
    (running.folder / "edge").mkdir()
    port = free_port()
    config = KeeperConfig(
        str(running.folder / "edge"), "127.0.0.1", port, SECRET, str(running.keys), str(running.usage), {}
    )
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdin=subprocess.PIPE)
    running.processes.append(parent)
    assert parent.stdin
    parent.stdin.write(config.to_json().encode() + b"\n")
    parent.stdin.close()
    with client_at(port) as client:
        until(lambda: answers(client), what="the keeper's answer")
        running.told("r1")
        until(lambda: requests_in(client) == 1, what="the line")
        parent.kill()
        until(lambda: not answers(client), what="its end")
    until(lambda: [written(each) for each in copies(running)] == [1], what="the copy")


def test_the_usage_of_a_newer_corral_is_left_alone_and_the_service_runs(running: Running) -> None:
    Ledger.open(running.usage).close()
    with closing(sqlite3.connect(running.usage)) as newer:
        newer.execute("PRAGMA user_version = 99")
    before = running.usage.read_bytes()
    with running.start() as client:
        running.told("r1")
        until(lambda: requests_in(client) == 1, what="a counted request")
        running.end(signal.SIGTERM)
    assert running.usage.read_bytes() == before
    assert [written(each) for each in copies(running)] == [1]
