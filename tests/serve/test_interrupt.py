"""Ctrl-C during `corral up`, and a service that ends by itself: nothing is left, at whatever moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml

from tests.ports import own_port
from tests.serve.herd import small
from tests.serve.service import CORRAL, ROOT, RunningService, Traces, title
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.serve


def one_model(folder: Path, port: int) -> Path:
    profile = folder / "one.yaml"
    models = {"one": small("pocket:pocket-1b")}
    profile.write_text(yaml.safe_dump({"edge": {"port": port}, "models": models}))
    return profile


@pytest.fixture
def short(tmp_path: Path) -> RunningService:
    port = own_port()
    return RunningService("short", f"http://127.0.0.1:{port}", one_model(tmp_path, port), tmp_path / "state")


def start(service: RunningService) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(CORRAL), "up", "--profile", str(service.profile)], env=service.environment, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def reached(service: RunningService, moment: str) -> bool:
    """Whether the service has come so far: a phase of its state, or a word in a process's title."""
    try:
        return service.state.phase == moment or any(moment in title(process) for process in service.processes())
    except (OSError, psutil.Error):
        return False


def of_run_folder(run_dir: str) -> list[str]:
    """Processes anywhere whose environment or command line names this run folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if run_dir in title(process) or run_dir in json.dumps(process.environ()):
                found.append(f"{process.pid} {title(process)}")
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("moment", ["starting Ray", "deploying", "ray::ServeReplica:model-one:one"])
def test_an_interrupted_start_leaves_nothing(short: RunningService, moment: str) -> None:
    with start(short) as command:
        until(lambda: reached(short, moment) or command.poll() is not None, what=moment)
        assert command.poll() is None, command.communicate()
        traces, run_dir = Traces.of(short), short.state.run_dir
        command.send_signal(signal.SIGINT)
        _, errors = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 130
    assert errors.splitlines()[-1] == "corral: interrupted"
    assert traces.left() == []
    assert of_run_folder(run_dir) == []


def test_a_killed_command_leaves_a_service_that_can_be_ended(short: RunningService) -> None:
    with start(short) as command:
        until(lambda: reached(short, "deploying"), what="deploying")
        command.kill()
        command.communicate(timeout=PATIENCE_S)
    traces, run_dir = Traces.of(short), short.state.run_dir
    done = short.corral("down")
    assert done.returncode == 0, done.stderr
    assert traces.left() == []
    assert of_run_folder(run_dir) == []


def test_what_a_killed_service_leaves_is_ended_too(short: RunningService) -> None:
    """Killed outright it cannot end its own processes; `corral down` does."""
    with start(short) as command:
        until(lambda: reached(short, "deploying"), what="deploying")
        traces, run_dir = Traces.of(short), short.state.run_dir
        os.kill(short.state.pid, signal.SIGKILL)
        _, errors = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 5
    assert "ended" in errors.splitlines()[-1]
    done = short.corral("down")
    assert done.returncode == 0, done.stderr
    assert traces.left() == []
    assert of_run_folder(run_dir) == []
