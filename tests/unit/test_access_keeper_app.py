"""The keeper over HTTP, and as the process that it is."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.access.estimate import Estimate
from app.access.keeper import Keeper
from app.access.keeper_app import LOG_SOCKET, SOCKET, KeeperConfig, create_keeper_app
from app.access.keys import KeyStore
from app.access.ledger import Counts, Ledger
from app.access.limits import Limits
from app.access.tally import Tally
from deployments.principal import HEADER, SECRET_HEADER, Principal
from deployments.secret import NOT_FROM_EDGE
from tests.unit.asgi import client_of, problem
from tests.waiting import until

ROOT = Path(__file__).parents[2]
BEGIN = 1_790_000_000.0  # 2026-09-21
SECRET = "5ec2e7" * 10
INSIDE = {SECRET_HEADER: SECRET}
GUARDED = [("POST", "/used"), ("POST", "/items"), ("POST", "/items/done"), ("GET", "/metrics"), ("GET", "/v1/usage")]


@dataclass
class Clock:
    now: float = BEGIN

    def __call__(self) -> float:
        return self.now


@dataclass
class Desk:
    """A keeper over HTTP. alice, bob: ids of keys, bob's in the group lab."""

    keeper: Keeper
    http: httpx.AsyncClient
    alice: str
    bob: str
    clock: Clock = field(default_factory=Clock)

    async def usage(self, *scopes: str, **query: str) -> httpx.Response:
        """As alice's key with these scopes asks; without any as the service itself does."""
        who = {HEADER: Principal(self.alice, scopes=scopes).to_header()} if scopes else {}
        return await self.http.get("/v1/usage", params=query, headers={**INSIDE, **who})


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    clock = Clock()
    store, ledger = KeyStore(tmp_path / "keys.json", clock), Ledger.open(tmp_path / "usage.db", clock=clock)
    keeper = Keeper(store, ledger, Estimate({"llama": 1000}), Tally(), clock, lambda: 1000.0)
    limits = Limits(requests_per_minute=1, bulk_items=10)
    alice, bob = (store.create(name, group, limits=limits)[0].id for name, group in (("alice", ""), ("bob", "lab")))
    keeper.reload()
    async with client_of(create_keeper_app(keeper, SECRET)) as http:
        yield Desk(keeper, http, alice, bob, clock)
    ledger.close()


# The app.


@pytest.mark.parametrize("given", [{}, {SECRET_HEADER: ""}, {SECRET_HEADER: f"{SECRET}0"}, {HEADER: "{}"}])
@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_nobody_without_the_secret_is_answered(desk: Desk, method: str, path: str, given: dict[str, str]) -> None:
    body = {"batch": "b", "events": [], "request": "r", "key": desk.alice, "items": 1, "count": 1}
    refused = await desk.http.request(method, path, json=body, headers=given)
    assert (refused.status_code, refused.text) == (401, f"{NOT_FROM_EDGE}\n")
    assert desk.keeper.ledger.usage() == []
    assert (await desk.http.request(method, path, json=body, headers=INSIDE)).is_success


@pytest.mark.parametrize(("method", "path"), [("POST", "/admit"), ("GET", "/used"), ("PUT", "/items"), ("GET", "/x")])
async def test_there_is_nothing_else(desk: Desk, method: str, path: str) -> None:
    assert (await desk.http.request(method, path, headers=INSIDE)).status_code in (404, 405)


def asking(key: str, **more: str) -> dict[str, str]:
    return {**INSIDE, "x-request": "r1", "x-key": key, "x-method": "POST", "x-path": "/generate", **more}


async def test_the_edge_is_told_the_principal_and_what_is_left(desk: Desk) -> None:
    answer = await desk.http.get("/admit", headers=asking(desk.alice, **{"x-model": "llama", "x-body-bytes": "40"}))
    assert (answer.status_code, answer.content, answer.headers["x-corral-answer"]) == (200, b"", "1")
    assert Principal.from_header(answer.headers[HEADER]).key == desk.alice
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"


async def test_the_edge_is_told_a_refusal_word_for_word(desk: Desk) -> None:
    await desk.http.get("/admit", headers=asking(desk.alice))
    over = await desk.http.get("/admit", headers=asking(desk.alice, **{"x-request": "r2"}))
    assert (over.status_code, problem(over)["code"], over.headers["retry-after"]) == (429, "quota_requests", "61")
    assert (over.headers["content-type"], over.headers["x-corral-answer"]) == ("application/json", "1")
    unknown = await desk.http.get("/admit", headers=asking("zzzzzzzz"))
    assert (unknown.status_code, problem(unknown)["code"]) == (401, "invalid_api_key")
    assert HEADER not in over.headers
    assert HEADER not in unknown.headers


async def test_a_request_that_tells_nothing_is_no_key(desk: Desk) -> None:
    assert (await desk.http.get("/admit", headers=INSIDE)).status_code == 401


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "", "1e9"])
async def test_numbers_that_are_none_are_left_out(desk: Desk, number: str) -> None:
    more = {"x-body-bytes": number, "x-answer-tokens": number}
    assert (await desk.http.get("/admit", headers=asking(desk.alice, **more))).status_code == 200


async def test_tokens_and_items_are_counted(desk: Desk) -> None:
    event = {"request": "r1", "key": desk.alice, "group": "", "model": "llama", "prompt_tokens": 3,
             "completion_tokens": 4}  # fmt: skip
    for _ in range(2):
        told = await desk.http.post("/used", json={"batch": "b1", "events": [event]}, headers=INSIDE)
        assert (told.status_code, told.content) == (204, b"")
    held = await desk.http.post("/items", json={"request": "r1", "key": desk.alice, "items": 10}, headers=INSIDE)
    assert (held.status_code, held.headers["x-corral-answer"]) == (200, "1")
    over = await desk.http.post("/items", json={"request": "r2", "key": desk.alice, "items": 1}, headers=INSIDE)
    assert (over.status_code, problem(over)["code"]) == (429, "quota_bulk_items")
    done = {"request": "r1", "key": desk.alice, "count": 10}
    assert (await desk.http.post("/items/done", json=done, headers=INSIDE)).status_code == 204
    rows = (await desk.usage(by="model")).json()["data"]
    assert [(row["model"], row["prompt_tokens"], row["bulk_items"]) for row in rows] == [
        ("/bulk", 0, 10),
        ("llama", 3, 0),
    ]
    metrics = await desk.http.get("/metrics", headers=INSIDE)
    assert 'corral_tokens_total{kind="prompt",model="llama"} 3.0' in metrics.text


@pytest.fixture
def used(desk: Desk) -> Desk:
    """With usage of both keys on two days."""
    for day in range(2):
        desk.clock.now = BEGIN + day * 86_400
        for key, group, requests in ((desk.alice, "", 1), (desk.bob, "lab", 10)):
            desk.keeper.ledger.note(key, group, "llama", Counts(requests * (day + 1)))
    return desk


def requests_of(response: httpx.Response, *names: str) -> list[tuple[Any, ...]]:
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["object"] == "usage"
    return sorted((*(row[name] for name in names), row["requests"]) for row in body["data"])


async def test_a_key_sees_its_own_usage_only(used: Desk) -> None:
    own = [("2026-09-21", "alice", 1), ("2026-09-22", "alice", 2)]
    assert requests_of(await used.usage("models", "metrics"), "day", "name") == own
    assert requests_of(await used.usage("models", key=used.alice, by="key"), "key") == [(used.alice, 3)]
    refused = await used.usage("models", key=used.bob)
    assert (refused.status_code, problem(refused)["code"], problem(refused)["param"]) == (403, "not_allowed", "key")
    assert "its own usage only" in problem(refused)["message"]


@pytest.mark.parametrize("scopes", [("admin",), ()])
async def test_admin_and_the_service_see_everybody_s(used: Desk, scopes: tuple[str, ...]) -> None:
    assert requests_of(await used.usage(*scopes, by="key"), "name") == [("alice", 3), ("bob", 30)]
    assert requests_of(await used.usage(*scopes, by="group"), "group") == [("", 3), ("lab", 30)]
    assert requests_of(await used.usage(*scopes, key=used.bob, by="day"), "day") == [
        ("2026-09-21", 10),
        ("2026-09-22", 20),
    ]


async def test_both_days_are_counted_in(used: Desk) -> None:
    assert requests_of(await used.usage(since="2026-09-22", by="day"), "day") == [("2026-09-22", 22)]
    assert requests_of(await used.usage(until="2026-09-21", by="day"), "day") == [("2026-09-21", 11)]
    assert requests_of(await used.usage(since="2026-09-21", until="2026-09-22", by="model"), "model") == [("llama", 33)]
    assert requests_of(await used.usage(since="2026-09-23")) == []


@pytest.mark.parametrize(
    ("query", "param", "said"),
    [
        ({"since": "yesterday"}, "since", "2026-11-21"),
        ({"until": "2026-02-30"}, "until", "'2026-02-30'"),
        ({"since": ""}, "since", "''"),
        ({"by": "day,colour"}, "by", "'colour'"),
        ({"by": ""}, "by", "day, key, group, model"),
        ({"page": "2"}, "page", "since, until, key and by"),
        ({"x" * 500: "2"}, "x" * 64, "unknown"),
    ],
)
async def test_a_bad_parameter_is_named(desk: Desk, query: dict[str, str], param: str, said: str) -> None:
    for scopes in (("admin",), ("models",)):
        refused = await desk.usage(*scopes, **query)
        assert (refused.status_code, problem(refused)["param"]) == (400, param)
        assert said in problem(refused)["message"]


# The process.


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
            tell(self.folder / folder / LOG_SOCKET, json.dumps(line).encode())


def tell(path: Path, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as edge:
        edge.connect(str(path))
        edge.send(line)


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
        tell(running.folder / "edge" / LOG_SOCKET, b"\xff garbage")
        running.told("r2")
        until(lambda: requests_in(client) == 2, what="both lines")
    modes = {name: stat.S_IMODE((running.folder / "edge" / name).stat().st_mode) for name in (SOCKET, LOG_SOCKET)}
    assert modes == {SOCKET: 0o600, LOG_SOCKET: 0o600}


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
    assert written(running.usage) == 3
    assert stat.S_IMODE(running.usage.stat().st_mode) == 0o600
    with running.start("another") as client:
        assert requests_in(client) == 3
        running.told("r4", folder="another")
        until(lambda: requests_in(client) == 4, what="one more")
        running.end(signal.SIGTERM)
    assert written(running.usage) == 4


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
    until(lambda: running.usage.exists() and written(running.usage) == 1, what="the copy")


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
