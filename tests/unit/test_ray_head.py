"""The script before Ray's GCS: it starts it again, passes on its end, and gives up one that cannot start."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray._private import services

from app.ray_head import write_script
from tests.waiting import until

LIVES = '#!/bin/sh\necho "$@" >> @FOLDER@/started\nexec sleep 600\n'
CANNOT_START = "#!/bin/sh\necho again >> @FOLDER@/started\nexit 3\n"
ENDS = "#!/bin/sh\nexit 0\n"


def program(folder: Path, text: str) -> Path:
    """The script over a program of this text, in folders with a space in their names."""
    folder = folder / "a folder"
    folder.mkdir()
    binary = folder / "gcs binary"
    binary.write_text(text.replace("@FOLDER@", f"'{folder}'"))
    binary.chmod(0o700)
    (folder / "own").mkdir()
    return write_script(folder / "own", str(binary), str(folder / "restarts"))


def lines(script: Path, name: str) -> list[str]:
    file = script.parent.parent / name
    return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    script = program(tmp_path, LIVES)
    with subprocess.Popen([script, "--port=1", "two words"]) as process:
        yield script, process
        for child in psutil.Process(process.pid).children() if process.poll() is None else []:
            child.kill()
        process.kill()


def sleeping(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The program as it lives, not the pause between two of its lives."""
    return [each for each in psutil.Process(process.pid).children() if command(each) == ["sleep", "600"]]


def command(process: psutil.Process) -> list[str]:
    """None of its own once it has ended, whether or not its parent has taken notice."""
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


def test_a_killed_one_is_started_again_with_the_same_arguments(
    running: tuple[Path, subprocess.Popen[bytes]],
) -> None:
    script, process = running
    (first,) = until(lambda: sleeping(process))
    first.kill()
    until(lambda: [each for each in sleeping(process) if each.pid != first.pid])
    assert lines(script, "started") == ["--port=1 two words"] * 2
    assert lines(script, "restarts") == [str(128 + signal.SIGKILL)]


def test_its_end_is_passed_on(running: tuple[Path, subprocess.Popen[bytes]]) -> None:
    script, process = running
    (binary,) = until(lambda: sleeping(process))
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGTERM
    until(lambda: not binary.is_running())
    assert lines(script, "restarts") == []


def test_one_that_cannot_start_is_given_up(tmp_path: Path) -> None:
    script = program(tmp_path, CANNOT_START)
    assert subprocess.run([script], check=False).returncode == 3
    assert lines(script, "started") == ["again"] * 5
    assert lines(script, "restarts") == ["3"] * 4


def test_one_that_ends_by_itself_is_not_started_again(tmp_path: Path) -> None:
    script = program(tmp_path, ENDS)
    assert subprocess.run([script], check=False).returncode == 0
    assert lines(script, "restarts") == []


def test_ray_runs_the_program_whose_name_is_changed() -> None:
    """Private to Ray: another version may start its GCS in another way, and nobody would start it again."""
    assert os.access(services.GCS_SERVER_EXECUTABLE, os.X_OK)
    assert "GCS_SERVER_EXECUTABLE" in services.start_gcs_server.__code__.co_names
