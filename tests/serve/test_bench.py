"""`corral bench` on the service that runs, and the servers that it is held against."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from loadtests.client.engine import UNREAD
from loadtests.servers import bare_server, engine_plan, plain_openai_app
from tests.serve.service import CORRAL, ROOT, RunningService
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.serve

SMALL = "pocket-1b"
QUICK = ("--lengths", "64:16", "--repeats", "2", "--requests-per-user", "4")


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_a_sweep_with_what_the_engine_says(service: RunningService, tmp_path: Path) -> None:
    out = tmp_path / "found"
    done = service.corral(
        "bench", "--models", SMALL, "--concurrency", "1,4", *QUICK, "--limits", "itl=60000", "--out", str(out)
    )
    assert done.returncode == 0, done.stderr
    assert f"{SMALL}: 64 in, 16 out tokens" in done.stdout
    found = told(out)
    assert [each["failed"] for each in found["aggregates"]] == [0, 0]
    assert [each["requests"] for each in found["aggregates"]] == [32, 32]
    side, engine = found["run"]["plan"]["sides"][0], found["run"]["configuration"]["models"][SMALL]
    assert (side["name"], side["url"], side["server"]) == ("corral", service.url, "Corral 0.1.0")
    assert (side["gpus"], side["gpus_of"]) == (None, {SMALL: 0})
    assert engine["source"] == "pocket:pocket-1b"
    assert engine["engine"]["max_num_seqs"] == 64
    measured = [json.loads(line) for line in (out / "measurements.jsonl").read_text().splitlines()]
    first = measured[0]
    assert first["figures"]["engine"]["generation_tokens"] == 16 * 16
    running = [each["figures"]["engine"]["running_max"] for each in measured]
    assert 1 <= max(found for found in running if found is not None) <= 4
    for each, found in zip(measured, running, strict=True):  # a measurement that is over at once may have no reading
        assert [notice.startswith(UNREAD) for notice in each["notices"]] == ([True] if found is None else [])


def test_every_kind_of_asking(service: RunningService, tmp_path: Path) -> None:
    done = service.corral(
        "bench", "--models", f"{SMALL},tribunal", "--kinds", "single,bulk,tribunal", "--concurrency", "2", *QUICK,
        "--repeats", "1", "--out", str(tmp_path / "found"), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = {(each["point"]["kind"], each["point"]["model"]): each for each in json.loads(done.stdout)["aggregates"]}
    assert set(asked) == {("single", SMALL), ("bulk", SMALL), ("tribunal", "tribunal")}
    assert all(each["failed"] == 0 for each in asked.values())


@pytest.mark.parametrize(("model", "code", "said"), [("nope", 2, "pocket-8b"), ("broken", 7, "SafetensorError")])
def test_a_model_that_is_not_there(service: RunningService, tmp_path: Path, model: str, code: int, said: str) -> None:
    done = service.corral("bench", "--models", model, "--out", str(tmp_path / "found"))
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_told_to_end_it_goes_on_later(service: RunningService, tmp_path: Path) -> None:
    out = tmp_path / "found"
    command = [str(CORRAL), "bench", "--models", SMALL, "--concurrency", "1,2", *QUICK, "--out", str(out)]
    with subprocess.Popen(command, env=service.environment, cwd=ROOT, text=True, stderr=subprocess.PIPE) as process:
        lines = out / "measurements.jsonl"
        until(lambda: lines.exists() and lines.read_text(), what="the first measurement")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert f"`corral bench --resume {out}` goes on" in errors
    assert told(out)["run"]["ended_because"] == "interrupted"
    resumed = service.corral("bench", "--resume", str(out), "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert [each["requests"] for each in json.loads(resumed.stdout)["aggregates"]] == [32, 32]


def test_beside_vllms_own_server(service: RunningService, tmp_path: Path) -> None:
    with bare_server(engine_plan(str(service.profile), SMALL)) as bare:
        done = service.corral(
            "bench", "--models", SMALL, "--concurrency", "2", *QUICK, "--against", bare,
            "--aims", "output_tokens_per_s.ratio>=0.01,failed_share<=0", "--out", str(tmp_path / "found"),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "corral over vllm" in done.stdout
    sides = [each["server"] for each in told(tmp_path / "found")["run"]["plan"]["sides"]]
    assert sides[0] == "Corral 0.1.0"
    assert sides[1].startswith("vLLM ")
    with pytest.raises(httpx.ConnectError):
        httpx.get(bare)


def test_beside_plain_build_openai_app(service: RunningService, tmp_path: Path) -> None:
    """By itself for the shape of its answers; what it leaves behind is nothing."""
    before = {each.pid for each in psutil.Process().children(recursive=True)}
    with plain_openai_app(engine_plan(str(service.profile), SMALL)) as plain:
        started = [each for each in psutil.Process().children(recursive=True) if each.pid not in before]
        done = service.corral(
            "bench", "--models", SMALL, "--concurrency", "2", *QUICK, "--repeats", "1", "--against", plain,
            "--against-name", "plain", "--out", str(tmp_path / "found"), "--json",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [(each["side"], each["failed"]) for each in json.loads(done.stdout)["aggregates"]] == [
        ("corral", 0), ("plain", 0),
    ]  # fmt: skip
    assert started
    assert [each for each in started if each.is_running()] == []
