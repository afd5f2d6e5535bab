"""Ending what we started, all of it and nothing else, by process id."""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36
BOOT = Path("/proc/sys/kernel/random/boot_id")
STARTED = 19
"""Which word of /proc/PID/stat, behind the name, has the clock ticks from the boot to the start."""
SHARED_MEMORY = ("sem.mp-*", "psm_*")
"""Names that Python's multiprocessing gives; Ray's own store has none."""


def birth(pid: int) -> str:
    """Of a process: which boot, and how long after it; the same however the clock is set. Raises OSError if it is gone.

    The moment by the clock is not: it changes with the clock, for the kernel counts from the boot.
    """
    told = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return f"{BOOT.read_text().strip()} {told[STARTED]}"


def adopt_orphans() -> None:
    """Have the kernel give this process every orphan below it, so that none escapes `end_descendants`."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants(grace_s: float) -> int:
    """TERM every process below this one, KILL what is left after `grace_s`; returns how many needed KILL."""
    _signal(_descendants(), signal.SIGTERM)
    _, left = psutil.wait_procs(_descendants(), timeout=grace_s)
    killed = len(left)
    while left:
        _signal(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=5)
        left = _descendants()
    return killed


def remove_unused_shared_memory(uid: int) -> list[Path]:
    """Remove what killed processes of this user left in /dev/shm: Python's semaphores and blocks that nobody maps."""
    left = [path for pattern in SHARED_MEMORY for path in Path("/dev/shm").glob(pattern)]  # noqa: S108
    mapped = _mapped(uid) if left else frozenset()
    removed = []
    for path in left:
        with contextlib.suppress(OSError):
            if (status := path.lstat()).st_uid == uid and status.st_ino not in mapped:
                path.unlink()
                removed.append(path)
    return removed


def _mapped(uid: int) -> frozenset[int]:
    """The inodes in /dev/shm that processes of this user map: glibc maps a semaphore before it gives it its name."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.uids().real == uid:
                lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
                found |= {int(line.split()[4]) for line in lines if "/dev/shm/" in line}  # noqa: S108
    return frozenset(found)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
