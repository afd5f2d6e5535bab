"""The whole way over HTTP, against a real small server, and what it writes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohttp import web

from loadtests.client.endpoint import EndpointError
from loadtests.records import Machine, Side
from loadtests.scaling.command import asking_of, interruptible, main, parser
from loadtests.scaling.errors import ScalingError
from loadtests.scaling.figures import PhaseFigures
from loadtests.scaling.measure import Measured, measure
from loadtests.scaling.plot import drawn
from loadtests.scaling.report import markdown
from loadtests.scaling.schedule import Pattern
from loadtests.scaling.timeline import Head, Timeline
from tests.unit.load_client_fakes import MODEL, Endpoint, serving
from tests.unit.load_gpu_fakes import threaded

METRICS = """
vllm:num_requests_running{model_name="small",replica="0"} 3
vllm:num_requests_running{model_name="small",replica="1"} 4
vllm:num_requests_waiting{model_name="small",replica="0"} 2
"""
SHORT = ["--lead", "0.2", "--hold", "0.6", "--wave", "0.5", "--settle", "0.1", "--think", "0.05", "--users", "4"]


def herd(replicas: object = 2) -> Endpoint:
    """A Corral with one model."""

    async def ready(_: web.Request) -> web.StreamResponse:
        return web.json_response({"ready": True, "id": MODEL, "replicas": replicas, "target_replicas": 3})

    return Endpoint(corral=True, version=None, metrics=METRICS, handlers={f"/ready/{MODEL}": ready})


async def measured(endpoint: Endpoint, folder: Path, more: Sequence[str] = ()) -> Measured:
    async with serving(endpoint) as url:
        given = ["--url", url, "--model", MODEL, *SHORT, *more]
        return await measure(asking_of(parser().parse_args(given), given), folder)


async def test_all_patterns_leave_figures_a_report_and_pictures(tmp_path: Path) -> None:
    result = await measured(herd(), tmp_path / "run", ["--target", "4"])
    assert [each.pattern for each in result.figures] == list(Pattern)
    assert (result.failed, result.head.ended_because, result.head.notices) == (0, "", ())
    assert all(each.requests for each in result.figures if each.pattern is not Pattern.STOP)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert set(kept) == {
        "ticks.jsonl", "requests.jsonl", "scaling.json", "report.md", "scaling.svg", "scaling.png"
    }  # fmt: skip
    body = json.loads(kept["scaling.json"])
    assert body["schema"] == "corral-scaling/1"
    assert [each["pattern"] for each in body["phases"]] == ["spike", "stop", "wave"]
    assert body["phases"][0]["failed"] == 0
    ticks = [json.loads(line) for line in kept["ticks.jsonl"].splitlines()]
    assert {(each["replicas"], each["wanted"]) for each in ticks} == {(2, 3)}
    assert {(each["running"], each["waiting"]) for each in ticks[1:]} == {(7, 2)}
    assert len(kept["requests.jsonl"].splitlines()) == sum(each.requests for each in result.figures)
    assert ET.fromstring(kept["scaling.svg"]).tag.endswith("svg")
    assert kept["scaling.png"].startswith(b"\x89PNG")


async def test_who_asks_has_users_tokens_as_they_were_asked(tmp_path: Path) -> None:
    endpoint = herd()
    await measured(endpoint, tmp_path / "run", ["--pattern", "spike", "--output-tokens", "7", "--input-tokens", "51"])
    assert {body["max_tokens"] for body in endpoint.measured} == {7}
    lengths = {2 * len(body["messages"][0]["content"].split()) + 5 for body in endpoint.measured}
    assert lengths == {51}
    assert len({body["messages"][0]["content"] for body in endpoint.measured}) == len(endpoint.measured)


async def test_ctrl_c_ends_it_with_what_it_has(tmp_path: Path) -> None:
    async with serving(herd()) as url:
        given = ["--url", url, "--model", MODEL, "--think", "0.05", "--users", "4", "--hold", "600"]
        running = asyncio.create_task(interruptible(asking_of(parser().parse_args(given), given), tmp_path / "run"))
        ticks = tmp_path / "run" / "ticks.jsonl"
        while not ticks.exists() or not ticks.read_text().count("\n"):
            await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
        result = await running
    assert result.head.ended_because == "it was interrupted"
    assert "**It ended early: it was interrupted.**" in (tmp_path / "run" / "report.md").read_text()
    assert (tmp_path / "run" / "scaling.png").exists()


def test_a_service_that_hangs_is_a_failed_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers what a look asks, and no stream."""
    monkeypatch.setattr("loadtests.scaling.crowd.LEAST_GRACE_S", 0.2)
    endpoint, over = herd(), threading.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        while body.get("stream") and not over.is_set():
            await asyncio.sleep(0.02)
        return web.json_response({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})

    endpoint.handlers["/v1/chat/completions"] = hang
    with threaded(endpoint) as url:
        given = ["--url", url, "--model", MODEL, *SHORT, "--pattern", "spike", "--out", str(tmp_path / "run")]
        status = main(given)
        over.set()
    assert status == 1
    (phase,) = json.loads((tmp_path / "run" / "scaling.json").read_text())["phases"]
    assert phase["faults"] == {"timeout": 4}
    assert "| spike | 4 | 4 |" in capsys.readouterr().out


async def test_a_service_that_does_not_tell_replicas_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScalingError, match=r"does not tell how many replicas serve small: /ready/MODEL"):
        await measured(Endpoint(metrics=METRICS), tmp_path / "run")


async def test_replicas_that_are_no_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScalingError, match="does not tell how many replicas"):
        await measured(herd("two"), tmp_path / "run")


async def test_without_metrics_it_is_told_and_goes_on(tmp_path: Path) -> None:
    endpoint = herd()
    endpoint.metrics = None
    result = await measured(endpoint, tmp_path / "run", ["--pattern", "spike"])
    assert result.head.ended_because == ""
    assert result.figures[0].requests > 0


async def test_a_wrong_model_names_the_right_ones(tmp_path: Path) -> None:
    async with serving(herd()) as url:
        given = ["--url", url, "--model", "large"]
        with pytest.raises(EndpointError, match=r"has no model 'large'; it has: small\."):
            await measure(asking_of(parser().parse_args(given), given), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_dead_service_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "127.0.0.1:9", "--model", MODEL, "--out", str(tmp_path / "run")]) == 2
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--users", "0"], "'0' is no whole number from 1 on"),
        (["--hold", "-1"], "'-1' is no number from 0 on"),
        (["--hold", "nan"], "'nan' is no number from 0 on"),
        (["--target", "0"], "'0' is no number above 0"),
        (["--pattern", "square"], "invalid choice: 'square'"),
    ],
)
def test_wrong_options_are_told(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--model", MODEL, *arguments])
    assert told in capsys.readouterr().err


def head(**changes: object) -> Head:
    given: dict[str, object] = {
        "side": Side(name="corral", url="http://127.0.0.1:1", server="Corral 0.1.0"), "model": MODEL,
        "patterns": (Pattern.SPIKE,), "base": 1, "users": 64, "input_tokens": 64, "output_tokens": 32, "think_s": 0.0,
        "limit_ms": 1000.0, "machine": Machine(cpu="a CPU", cores=2, memory_gib=8, same_machine=True),
        "began_at": "2026-03-01T12:00:00Z",
    }  # fmt: skip
    return Head.model_validate(given | changes)


def spike(**changes: object) -> PhaseFigures:
    given: dict[str, object] = {
        "pattern": Pattern.SPIKE, "seconds": 105.0, "users": 64, "requests": 1234, "failed": 0, "replicas_before": 1,
        "replicas_most": 3, "replicas_after": 2, "decided_s": 9.0, "first_replica_s": 31.2, "last_replica_s": 44.0,
        "ttft_p95_worst_ms": 2345.6, "ttft_over_s": 40.0, "ttft_back_s": 46.0, "needed": 2, "overshoot": 1,
    }  # fmt: skip
    return PhaseFigures.model_validate(given | changes)


def test_the_report_has_a_row_for_each_pattern() -> None:
    text = markdown(head(command="python -m loadtests.scaling"), [spike()])
    assert "| spike | 1,234 | 0 | 1 - 3 - 2 | 9.0 s | 31.2 s | 44.0 s | 2.35 s | 46.0 s | 1 | \N{EN DASH} |" in text
    assert "1 user and 64 users at most, each asking again" in text
    assert "Repeat it with `python -m loadtests.scaling`" in text


def test_the_report_tells_what_failed_and_what_is_missing() -> None:
    figures = [spike(failed=3, faults={"overload": 2, "broken_stream": 1}, ttft_back_s=None)]
    text = markdown(head(ended_because="no\nmore", notices=("2 of 9 looks told no replicas: gone",)), figures)
    assert "- Failed in the spike: 2 overload, 1 broken stream." in text
    assert "| not in time |" in text
    assert "**It ended early: no more.**" in text
    assert "- 2 of 9 looks told no replicas: gone" in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ttft_over_s": 0.0, "ttft_back_s": 0.0}, "never over"),
        ({"ttft_over_s": None}, "\N{EN DASH}"),
        ({"pattern": Pattern.WAVE}, "over the limit for 40 s"),
    ],
)
def test_the_wait_is_told_in_words(changes: dict[str, object], told: str) -> None:
    assert f"| 2.35 s | {told} | 1 |" in markdown(head(), [spike(**changes)])


def test_a_run_of_nothing_has_a_report_and_a_picture_always_the_same() -> None:
    assert "Nothing was measured." in markdown(head(), [])
    first, second = (drawn(Timeline(), "nothing", limit_ms=500) for _ in range(2))
    assert set(first) == {"scaling.svg", "scaling.png"}
    assert first == second
