"""The engine's process: forked from a server that is warm, with its starter's environment, gone with its starter."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import until

STARTER = """
import json, os, sys, time
from deployments import warm_engine

def tell():
    names = {name: os.environ.get(name) for name in ("EARLIER", "LATER", "GONE")}
    told = {"pid": os.getpid(), "server": os.getppid(), "loaded": "colorsys" in sys.modules, "environment": names}
    print(json.dumps(told), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    warm_engine.PRELOAD = ["colorsys"]
    assert not warm_engine.is_running()
    warm_engine.warm()
    assert warm_engine.is_running()
    os.environ["LATER"] = os.environ["EARLIER"] = "set after the server was started"
    del os.environ["GONE"]
    process = warm_engine.WarmContext().Process(target=tell)
    process.start()
    process.join()
"""


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    script = tmp_path / "starter.py"
    script.write_text(STARTER)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "GONE": "here", "EARLIER": "of the server"}
    process = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_engine_is_warm_has_its_starters_environment_and_ends_when_that_is_killed(
    starter: subprocess.Popen[str],
) -> None:
    assert starter.stdout
    told = json.loads(starter.stdout.readline())
    assert told["environment"] == {"EARLIER": "set after the server was started",
                                   "LATER": "set after the server was started", "GONE": None}  # fmt: skip
    assert told["loaded"]
    assert told["server"] != starter.pid
    assert lives(told["pid"])
    starter.kill()
    until(lambda: not lives(told["pid"]) and not lives(told["server"]), 10)
