"""`python -m loadtests.leaving` against a small real server: times, what it counts as free, and what is no figure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import httpx
import pytest
from aiohttp import web

from loadtests import leaving as module
from loadtests.leaving import (
    BUFSIZE,
    FREE_MS,
    HELD,
    LONG,
    Service,
    held,
    judged,
    leaving,
    measured,
    parsed,
    total,
    ways,
)
from tests.unit.load_bench import on_a_thread
from tests.unit.load_client_fakes import MODEL, Endpoint, delta

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
STRAIGHT, RELAYED, GENERATED = ways(MODEL)
TEXT = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",corral_model="small",replica="a"} 2.0
vllm:num_requests_running{engine="0",corral_model="small",replica="b"} 1.0
vllm:num_requests_running{engine="0",corral_model="other",replica="c"} 9.0
vllm:num_requests_waiting{engine="0",corral_model="small",replica="a"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",corral_model="small",replica="a"} 50.0
corral_replica_requests{state="inside",model="small",replica="a"} 8.0
corral_replica_requests{state="waiting",model="small",replica="a"} 16.0
"""


@dataclass
class Herd:
    """A service that streams to whoever stays. keeps_s: its slots are kept so long after a client has left.

    events: after which a stream ends by itself. right: the gateway gets what it is to pass on, else what it is not.
    """

    keeps_s: float = 0.0
    events: int = 1 << 30
    right: bool = True
    silent: bool = False
    holds: int = 0
    written: int = 0
    passed_on: int = 0

    async def stream(self, request: web.Request) -> web.StreamResponse:
        relayed = request.path == "/generate" or len(await request.content.read()) > BUFSIZE
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        self.holds += 1
        with suppress(ConnectionError):  # the client has left
            for _ in range(self.events):
                await response.write(delta(content="a"))
                self.written += 1
                await asyncio.sleep(0.01)
        await asyncio.sleep(self.keeps_s)
        self.holds -= 1
        self.passed_on += relayed if self.right else not relayed
        return response

    async def metrics(self, request: web.Request) -> web.Response:
        lines = [f'{name}{{corral_model="{MODEL}"}} {self.holds}' for name in HELD]
        lines.append(f'vllm:generation_tokens_total{{corral_model="{MODEL}"}} {self.written}')
        for path in (STRAIGHT.path, GENERATED.path):
            lines.append(f'corral_gateway_requests_total{{route="{path}",status="200"}} {self.passed_on}')
        refused = request.headers.get("authorization") != "Bearer corral-x"
        return web.Response(status=401 if refused else 200, text="" if self.silent else "\n".join(lines) + "\n")


@contextmanager
def running(herd: Herd, key: str = "corral-x") -> Iterator[Service]:
    handlers: dict[str, Handler] = {"/metrics": herd.metrics, STRAIGHT.path: herd.stream, GENERATED.path: herd.stream}
    with on_a_thread(Endpoint(handlers=handlers)) as url, httpx.Client(trust_env=False, timeout=30) as http:
        yield Service(url, key, MODEL, http)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.5)


def test_all_that_a_model_holds_is_counted_and_nothing_else() -> None:
    assert held(TEXT, "small") == 2 + 1 + 4 + 8 + 16
    assert total(TEXT, HELD[0], "other") == 9
    assert total(TEXT, HELD[0], "none") is None


@pytest.mark.parametrize("missing", HELD)
def test_what_is_not_told_is_not_free(missing: str) -> None:
    assert held("\n".join(line for line in TEXT.splitlines() if f"{missing}{{" not in line), "small") is None


def test_the_ways_differ_by_where_the_edge_finds_the_model() -> None:
    straight, relayed = json.dumps(STRAIGHT.body), json.dumps(RELAYED.body)
    assert len(straight) < 1000
    assert '"model"' not in relayed[:BUFSIZE]
    assert RELAYED.path == STRAIGHT.path != GENERATED.path
    assert [way.passed_on for way in ways(MODEL)] == [False, True, True]
    assert {way.body["max_tokens"] for way in ways(MODEL)} == {LONG}


@pytest.mark.parametrize("way", ways(MODEL), ids=lambda way: str(way.name))
def test_each_client_that_leaves_is_a_time(way: module.Way) -> None:
    herd = Herd()
    with running(herd) as service:
        took_ms = measured(service, way, 3)
    assert len(took_ms) == 3
    assert min(took_ms) > 0
    assert herd.holds == 0


def test_a_slot_that_is_kept_is_in_the_time() -> None:
    with running(Herd(keeps_s=0.3)) as service:
        assert min(measured(service, STRAIGHT, 2)) >= 300


def test_all_ways_are_told_and_judged(capsys: pytest.CaptureFixture[str]) -> None:
    with running(Herd()) as service:
        found = leaving(service, 2)
    lines = capsys.readouterr().out.splitlines()
    assert [each.bound for each in found] == [FREE_MS] * 3
    assert [line.partition(":")[0] for line in lines[:3]] == [way.name for way in ways(MODEL)]
    assert all("p50" in line and "p95" in line and "max" in line for line in lines)


@pytest.mark.parametrize(("longest", "kept"), [(FREE_MS, True), (FREE_MS + 1, False)])
def test_the_longest_time_decides(longest: float, kept: bool) -> None:
    (one,) = judged({"straight": [10.0] * 19 + [longest]})
    assert (one.found, one.kept) == (longest, kept)
    assert "straight, the longest of 20," in one.line


@pytest.mark.parametrize(
    ("way", "said"),
    [(STRAIGHT, "2 of 2 streams .*, not 0"), (RELAYED, "0 of 2 streams .*, not 2")],
    ids=["one", "other"],
)
def test_another_way_than_the_one_that_is_named_is_no_figure(
    monkeypatch: pytest.MonkeyPatch, way: module.Way, said: str
) -> None:
    monkeypatch.setattr(module, "COUNTED_S", 0)
    with running(Herd(right=False)) as service, pytest.raises(RuntimeError, match=said):
        measured(service, way, 2)


def test_a_stream_that_ends_by_itself_is_no_figure() -> None:
    with running(Herd(events=2)) as service, pytest.raises(RuntimeError, match="ended before its client left"):
        measured(service, STRAIGHT, 1)


def test_an_answer_that_was_whole_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG", 2)
    monkeypatch.setattr(module, "FREE_MS", float("inf"))
    with running(Herd()) as service, pytest.raises(RuntimeError, match="was whole before its client left"):
        measured(service, STRAIGHT, 1)


@pytest.mark.parametrize(
    ("herd", "said"),
    [(Herd(holds=1), "small still holds 3 requests"), (Herd(silent=True), "small still does not tell what it holds")],
    ids=["never free", "silent"],
)
def test_a_service_that_is_never_seen_free_is_no_figure(impatient: None, herd: Herd, said: str) -> None:
    with running(herd) as service, pytest.raises(RuntimeError, match=said):
        measured(service, STRAIGHT, 1)


def test_a_key_that_may_not_read_metrics_is_told() -> None:
    with running(Herd(), "corral-y") as service, pytest.raises(RuntimeError, match="/metrics answered 401"):
        measured(service, STRAIGHT, 1)


def test_twenty_streams_unless_said() -> None:
    assert (parsed([]).streams, parsed(["--streams", "3"]).streams) == (20, 3)
    with pytest.raises(SystemExit):
        parsed(["--streams", "0"])
