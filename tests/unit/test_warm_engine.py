"""The engine's process: forked from a server that is warm, with its starter's environment, gone with its starter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    os.environ.pop("GONE", None)
    process = warm_engine.WarmContext().Process(target=tell)
    process.start()
    process.join()
    print(process.exitcode, flush=True)
"""


@dataclass
class Starter:
    """Stands for a replica. told: what its engine said of itself, on this process's standard output."""

    process: subprocess.Popen[str]
    told: dict[str, Any] = field(default_factory=dict)

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout
        self.told = json.loads(self.process.stdout.readline())
        return self.told

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


Start = Callable[..., Starter]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    script = tmp_path / "starter.py"
    script.write_text(STARTER)
    started: list[Starter] = []
    common = {"PYTHONPATH": str(Path.cwd()), "TMPDIR": str(tmp_path), "GONE": "here", "EARLIER": "of the server"}

    def run(**environment: str) -> Starter:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            env={**os.environ, **common, **environment},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(Starter(process))
        return started[-1]

    yield run
    for each in started:
        with suppress(ProcessLookupError):
            os.killpg(each.process.pid, signal.SIGKILL)
    for each in started:  # the shared server has the first one's output, and ends with the last
        each.process.communicate()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_engine_is_warm_has_its_starters_environment_and_ends_when_that_is_killed(start: Start) -> None:
    starter = start()
    told = starter.hear()
    assert told["environment"] == {"EARLIER": "set after the server was started",
                                   "LATER": "set after the server was started", "GONE": None}  # fmt: skip
    assert told["loaded"]
    assert told["server"] not in (
        starter.process.pid,
        *(each.pid for each in psutil.Process(starter.process.pid).children()),
    )
    assert lives(told["pid"])
    starter.kill()
    until(lambda: not lives(told["pid"]) and not lives(told["server"]), 10)


def test_replicas_share_a_server_that_ends_with_the_last_and_an_engine_ends_with_its_own(start: Start) -> None:
    starters = [start() for _ in range(3)]  # at once, so that two find the third at its start
    told = [each.hear() for each in starters]
    assert len({each["server"] for each in told}) == 1
    assert len({each["pid"] for each in told}) == 3
    starters[0].kill()
    until(lambda: not lives(told[0]["pid"]), 10)
    assert all(lives(each["pid"]) for each in told[1:])
    late = start()
    assert late.hear()["server"] == told[0]["server"]
    for each in (*starters[1:], late):
        each.kill()
    until(lambda: not any(lives(each["pid"]) for each in (*told, late.told)) and not lives(told[0]["server"]), 10)


def test_what_is_read_at_import_sets_servers_apart(start: Start) -> None:
    plain, again, other = start(), start(CORRAL_MODEL="another"), start(OMP_NUM_THREADS="7")
    assert plain.hear()["server"] == again.hear()["server"] != other.hear()["server"]


def test_a_server_that_was_killed_takes_its_engines_along_and_is_replaced(start: Start) -> None:
    starter = start()
    told = starter.hear()
    os.kill(told["server"], signal.SIGKILL)
    until(lambda: not lives(told["pid"]), 10)
    assert starter.process.stdout
    assert starter.process.stdout.readline().strip() == "255"
    assert start().hear()["server"] != told["server"]


def test_an_engine_that_is_killed_is_told_to_its_own_replica(start: Start) -> None:
    starter, other = start(), start()
    told, others = starter.hear(), other.hear()
    os.kill(told["pid"], signal.SIGKILL)
    assert starter.process.stdout
    assert starter.process.stdout.readline().strip() == str(-signal.SIGKILL)
    assert lives(others["pid"])


def test_a_folder_that_others_can_write_to_is_not_used(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / f"warm-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    assert start().hear()["loaded"]
    assert not any(folder.iterdir())


def test_without_a_place_for_a_socket_engines_are_not_warm(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    code = "from deployments import warm_engine; warm_engine.warm(); print(warm_engine.is_running())"
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "TMPDIR": str(deep)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
    assert "no warm engines" in done.stderr
