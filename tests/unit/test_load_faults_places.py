"""What faults of a disk and of a clock are tried on: a clock of some processes alone, and no machine's own disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.faults.clock import Clock, ClockError
from loadtests.faults.disk import Disk, DiskError

HOUR_S = 3600
TOLD = """
import sys, threading, time
def look():
    began = time.monotonic()
    time.sleep(0.05)
    threading.Event().wait(0.05)
    print(time.time(), time.time_ns() / 1e9, time.monotonic(), time.monotonic() - began, flush=True)
for _ in sys.stdin:
    look()
"""
WAITS = """
import ctypes, time
class At(ctypes.Structure):
    _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]
c, semaphore = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(32)
c.sem_init(semaphore, 0, 0)
until = At(int(time.time()) + 3000, 0)
print("waiting", flush=True)
print(c.sem_timedwait(semaphore, ctypes.byref(until)), flush=True)
"""


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    return Clock.made(tmp_path)


@pytest.fixture
def told(clock: Clock) -> Iterator[subprocess.Popen[str]]:
    with running(clock, TOLD) as process:
        yield process
        process.stdin.close() if process.stdin else None


def running(clock: Clock, program: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **clock.environment}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stdin=pipe, stdout=pipe, text=True)


def look(process: subprocess.Popen[str]) -> tuple[float, float, float]:
    """How far its wall clock is ahead of ours, and its monotonic one, and how long its short waits took."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    wall, wall_ns, monotonic, took_s = map(float, process.stdout.readline().split())
    assert wall_ns == pytest.approx(wall, abs=1)
    return wall - time.time(), monotonic - time.monotonic(), took_s


@pytest.mark.parametrize("ahead_s", [2 * HOUR_S, -HOUR_S, -0.5])
def test_the_wall_clock_moves_and_no_other(clock: Clock, told: subprocess.Popen[str], ahead_s: float) -> None:
    for set_to in (0, ahead_s, 0):
        clock.set(set_to)
        assert clock.ahead_s == set_to
        ahead, apart, took_s = look(told)
        assert ahead == pytest.approx(set_to, abs=30)
        assert apart == pytest.approx(0, abs=30)
        assert took_s < HOUR_S / 2, "a short wait waits for the clock"


def test_who_waits_for_a_moment_has_it_when_the_clock_shows_it(clock: Clock) -> None:
    with running(clock, WAITS) as process:
        assert process.stdout
        assert process.stdout.readline() == "waiting\n"
        clock.set(HOUR_S)
        assert process.stdout.readline() == "-1\n"


def test_a_process_tells_which_clock_it_goes_by(clock: Clock, told: subprocess.Popen[str]) -> None:
    look(told)  # it has begun
    assert Clock.of(told.pid) == clock
    with pytest.raises(ClockError, match="everybody's"):
        Clock.of(os.getpid())


def test_a_whole_machines_disk_is_not_filled() -> None:
    with pytest.raises(DiskError, match=r"/usr lies on .*, which is no disk of its own that may be filled"):
        Disk.below(Path("/usr"))
