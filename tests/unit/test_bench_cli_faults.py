"""`corral bench` where an endpoint fails, falls silent or goes away, where it is interrupted, and where it goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.unit.conftest import Corral
from tests.unit.load_bench import QUICK, WRITTEN, Mortal, Watched, failing, measured, on_a_thread, told, without_counts
from tests.unit.load_client_fakes import Body, Endpoint, answer, event, words


def test_nobody_there(bench_folder: Path, serving: Any, corral: Corral) -> None:
    dead = "http://127.0.0.1:9"
    code, out, error = corral(f"bench --url {dead} {QUICK}")
    assert (code, out) == (7, "")
    assert "http://127.0.0.1:9 does not answer" in error
    assert corral(f"bench --url {serving(Endpoint())} --against {dead} {QUICK}")[0] == 7
    assert corral("bench --name nobody")[0] == 4
    assert not list(bench_folder.iterdir())


def test_an_endpoint_that_goes_away_in_the_middle(bench_folder: Path, serving: Any, corral: Corral) -> None:
    url = serving(Mortal(last=20))
    code, out, error = corral(f"bench --url {url} {QUICK} --concurrency 1,2,4")
    assert code == 7
    assert f"corral: 'endpoint' at {url} does not answer: 12 of 16 requests failed (12 connection) at 2 users" in error
    # what half of it failed in is no measurement
    assert [each["figures"]["failed"] for each in measured(bench_folder / "found")] == [0]
    assert {path.name for path in (bench_folder / "found").iterdir()} == WRITTEN
    assert [line.split()[0] for line in out.splitlines() if " user" in line and "/16" in line] == ["1"]


@dataclass
class Silent(Watched):
    """Answers so many streamed requests, and all others; then those get no word any more."""

    last: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        chat = request.path.endswith("/completions") and (await request.json()).get("stream")
        while chat and len(self.measured) >= self.last and request.transport is not None:
            await asyncio.sleep(0.01)
        return await super().handle(request)


@pytest.mark.parametrize("warmup", [0, 1])
def test_an_endpoint_that_is_silent(
    bench_folder: Path, serving: Any, corral: Corral, monkeypatch: pytest.MonkeyPatch, warmup: int
) -> None:
    monkeypatch.setattr("loadtests.client.pace.LEAST_GRACE_S", 0.05)
    line = f"{QUICK} --warmup {warmup} --max-seconds 0.2 --aims failed_share<=0"
    code, _, error = corral(f"bench --url {serving(Silent())} {line}")
    assert code == 7
    assert "does not answer: all 1 requests failed (1 timeout) at 1 user" in error
    assert not measured(bench_folder / "found")
    assert corral("bench --resume found")[0] == 7


def test_an_endpoint_that_stops_answering_misses_its_aim(
    bench_folder: Path, serving: Any, corral: Corral, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that were cut off are failed ones."""
    monkeypatch.setattr("loadtests.client.pace.LEAST_GRACE_S", 0.05)
    url = serving(Silent(last=12))
    line = f"bench --url {url} {QUICK} --concurrency 4 --max-seconds 0.5"
    code, out, _ = corral(f"{line} --aims failed_share<=0")
    assert code == 1
    (found,) = (each["figures"] for each in measured(bench_folder / "found"))
    assert (found["requests"], found["failed"], found["faults"]) == (16, 4, {"timeout": 4})
    assert found["good_share"] == 0.75
    assert found["seconds"] > 0.5
    assert "4/16" in out
    assert "4 requests were still under way" in out


def test_no_request_is_answered(bench_folder: Path, serving: Any, corral: Corral) -> None:
    code, out, error = corral(f"bench --url {serving(Endpoint(stream=failing))} {QUICK}")
    assert code == 7
    assert "no request was answered (server)" in error
    assert "16/16" in out
    assert "the engine is out of breath" in out


def test_token_counts_that_never_come(bench_folder: Path, serving: Any, corral: Corral) -> None:
    code, out, _ = corral(f"bench --url {serving(Endpoint(stream=without_counts))} {QUICK}")
    assert code == 0
    row = next(line.split() for line in out.splitlines() if line.startswith("1 user "))
    assert row[3] == "\N{EN DASH}"
    assert float(row[4]) > 0
    assert "not every answer told how many tokens it has" in out


def test_interrupted_it_keeps_what_it_has_and_goes_on(bench_folder: Path, serving: Any, corral: Corral) -> None:
    def stream(body: Body) -> bytes:
        if len(endpoint.measured) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return answer(int(body["max_tokens"]), words(body))

    endpoint = Endpoint(stream=stream)
    url = serving(endpoint)
    code, _, error = corral(f"bench --url {url} {QUICK} --aims failed_share<=0")
    assert code == 130
    assert "found keeps what was measured; `corral bench --resume found` goes on" in error
    assert len(measured(bench_folder / "found")) == 1
    assert told(bench_folder / "found")["run"]["ended_because"] == "interrupted"
    assert corral("bench --resume found --seed 2")[0] == 2
    code, out, error = corral("bench --resume found")
    assert code == 0, error
    assert "2 measurements, 1 of them before" in error
    assert "kept, within the noise: failed requests at most 0 share at 2 users of small" in out
    asked = len(endpoint.asked)
    code, _, error = corral("bench --resume found")
    assert (code, len(endpoint.asked)) == (0, asked)
    assert "found is whole: everything was measured before" in error
    assert [each["point"]["concurrency"] for each in measured(bench_folder / "found")] == [1, 2]


def test_a_resumed_run_finds_its_endpoint_gone_or_changed(bench_folder: Path, serving: Any, corral: Corral) -> None:
    with on_a_thread(Mortal(last=20)) as url:
        code, _, error = corral(f"bench --url {url} {QUICK} --repeats 2")
    assert code == 7
    assert f"corral: 'endpoint' at {url} does not answer: 12 of 16 requests" in error
    assert "does not answer" in told(bench_folder / "found")["run"]["ended_because"]
    assert corral("bench --resume found")[0] == 7
    head = json.loads((bench_folder / "found" / "run.json").read_text())
    head["plan"]["sides"][0]["url"] = serving(Endpoint(models=("another",)))
    (bench_folder / "found" / "run.json").write_text(json.dumps(head))
    code, _, error = corral("bench --resume found")
    assert code == 2
    assert "has no model 'small'; it has another" in error
    head["plan"]["sides"][0]["url"] = serving(Endpoint())
    (bench_folder / "found" / "run.json").write_text(json.dumps(head))
    assert corral("bench --resume found")[0] == 0
    assert [(each["repeat"], each["figures"]["failed"]) for each in measured(bench_folder / "found")] == [
        (0, 0), (1, 0), (0, 0), (1, 0),
    ]  # fmt: skip


def test_a_resumed_run_tells_that_its_server_is_another(bench_folder: Path, serving: Any, corral: Corral) -> None:
    with on_a_thread(Mortal(last=20, version="0.29")) as url:
        assert corral(f"bench --url {url} {QUICK} --repeats 2")[0] == 7
    head = json.loads((bench_folder / "found" / "run.json").read_text())
    assert head["plan"]["sides"][0]["server"] == "vLLM 0.29"
    head["plan"]["sides"][0]["url"] = serving(Endpoint(version="0.30"))
    (bench_folder / "found" / "run.json").write_text(json.dumps(head))
    code, _, error = corral("bench --resume found")
    assert code == 0
    said = "'endpoint' was vLLM 0.29 when the run began, and is vLLM 0.30 since it was resumed"
    assert f"note: {said}" in error
    assert said in told(bench_folder / "found")["run"]["notices"]


def test_a_key_that_an_endpoint_echoes_is_in_no_file(
    bench_folder: Path, serving: Any, corral: Corral, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORRAL_API_KEY", "sk-0123456789")
    echo = event({"error": {"message": "sk-0123456789 has no money"}}) + b"data: [DONE]\n\n"
    code, out, error = corral(f"bench --url {serving(Endpoint(stream=lambda _: echo))} {QUICK}")
    assert code == 7
    assert "*** has no money" in out
    for text in (out, error, *(path.read_text() for path in (bench_folder / "found").iterdir())):
        assert "sk-0" not in text
