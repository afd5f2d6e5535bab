"""Ending what we started, all of it and nothing else, by process id."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterable

import psutil

PR_SET_CHILD_SUBREAPER = 36


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


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
