"""Logs that other processes write into: their owner's alone, and begun again under their hands when they are long."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import BinaryIO, cast

LOG_BYTES = 64 << 20
"""A longer log is kept once more as NAME.1.log, and begun again."""
OF_A_SERVICE = ("logs/*.log", "ray/session_latest/logs/serve/*.log", "ray/session_latest/logs/worker-*.[eo][ru][rt]")
KEPT = ".1"


def open_log(path: Path) -> BinaryIO:
    """To append to, also after it was begun again."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return cast(BinaryIO, os.fdopen(descriptor, "ab"))


def say(text: str) -> None:
    """One line on standard error, which is a log; where the disk is full it waits for the next one."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")


def shorten_logs(run_dir: Path, limit: int = LOG_BYTES) -> None:
    """Keep a service's logs from filling the disk."""
    for pattern in OF_A_SERVICE:
        for path in run_dir.glob(pattern):
            with contextlib.suppress(OSError):
                shorten(path, limit)


def empty_logs(run_dir: Path) -> None:
    """Of a service that ends, whose folder goes with it: whoever has something to keep needs the room."""
    for pattern in ("edge/*.log", "logs/*.log", "ray/session_latest/logs/**/*"):
        for path in run_dir.glob(pattern):
            with contextlib.suppress(OSError):
                os.truncate(path, 0)


def shorten(path: Path, limit: int = LOG_BYTES) -> None:
    """What is written between the copy and the beginning is lost: a line or two, once in 64 MiB. Raises OSError."""
    if path.suffixes[-2:-1] != [KEPT] and path.stat().st_size > limit:
        shutil.copy(path, path.with_name(f"{path.stem}{KEPT}{path.suffix}"))  # and its mode
        os.truncate(path, 0)
