"""Servers that are started to be compared: waited for, ended with all below them, and told about when they fail."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import psutil
import pytest

from app.bench.asked import aims_of
from loadtests.against_vllm import (
    BESIDE_PLAIN,
    BESIDE_VLLM,
    MOST,
    NO_FAILURE,
    USERS,
    arguments,
    bench,
    comparisons,
    main,
)
from loadtests.records import Point
from loadtests.servers import ServerError, engine_plan, free_ports, process
from loadtests.sweep.plan import concurrencies_of
from tests.unit.load_bench import Watched, on_a_thread

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("started", child.pid, flush=True)
time.sleep(600)
"""
SERVER = """
import http.server, sys
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def test_it_ends_with_all_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtests.servers.GRACE_S", 0.1)
    log = tmp_path / "log"
    with process([sys.executable, "-c", STUBBORN], {}, log) as running:
        running.wait_for_words("started")
        family = [psutil.Process(running.process.pid), psutil.Process(int(log.read_text().split()[1]))]
        assert all(each.is_running() for each in family)
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_it_is_waited_for(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    with process([sys.executable, "-c", SERVER, str(port)], {}, tmp_path / "log") as running:
        running.wait_for(f"http://127.0.0.1:{port}")


def test_what_fails_is_told_with_its_log(tmp_path: Path) -> None:
    with (
        process([sys.executable, "-c", "import sys; sys.exit('no such checkpoint')"], {}, tmp_path / "log") as running,
        pytest.raises(ServerError, match="status 1: no such checkpoint"),
    ):
        running.wait_for("http://127.0.0.1:9")


def test_an_engine_as_the_profile_has_it() -> None:
    plan = engine_plan("pocket", "pocket-8b")
    assert plan.arguments[plan.arguments.index("--max-model-len") + 1] == "2048"
    assert plan.environment["OMP_NUM_THREADS"] == "1"
    with pytest.raises(ServerError, match="corral engine ended with status 3"):
        engine_plan("pocket", "nope")


def test_the_aims_of_a_comparison_are_those_that_the_command_takes() -> None:
    users = concurrencies_of(USERS)
    for text, most in ((BESIDE_VLLM, users), (BESIDE_PLAIN, concurrencies_of(MOST)), (NO_FAILURE, users)):
        for aim in aims_of(text):
            assert any(aim.concerns(Point(model="pocket-8b", concurrency=each)) for each in most)


def test_what_is_compared() -> None:
    assert [each.name for each in comparisons(arguments([]))] == ["vllm", "many-users"]
    plain = comparisons(arguments(["--plain", "--bare", "http://there"]))
    assert [each.name for each in plain] == ["vllm", "build-openai-app", "many-users"]
    assert plain[0].beside == "http://there"
    assert callable(plain[1].beside)


def test_the_command_is_run_and_its_code_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert bench("--url", "http://127.0.0.1:9", "--out", str(tmp_path / "found")) == 7
    assert capfd.readouterr().err.startswith("\ncorral bench --url http://127.0.0.1:9")


def test_a_service_that_runs_already_is_sent_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_API_KEY", "right")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # it has none of the models, so nothing is measured
    service, bare = Watched(models=("another",)), Watched(models=("another",))
    with on_a_thread(service) as ours, on_a_thread(bare) as other:
        line = ["against_vllm", "--corral", ours, "--bare", other, "--out", str(tmp_path)]
        monkeypatch.setattr("sys.argv", line)
        try:
            assert main() == 1
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert (service.keys, bare.keys) == ({"Bearer right"}, {None})
