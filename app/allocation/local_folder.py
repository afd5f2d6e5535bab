"""A node's private folder: 0700, on its own disk, held by a lock for as long as the agent lives.

What a killed agent of the same user left is removed by the next one: its lock is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from app.processes import remove_unused_shared_memory

DISK = Path("/tmp")  # noqa: S108
PREFIX = "corral-"
LOCK = "lock"


@contextmanager
def local_folder(name: str, uid: int, disk: Path = DISK) -> Iterator[Path]:
    """The folder of one agent; it is gone afterwards. `name` is short, for the path of a socket has an end.

    Raises OSError if it cannot be had, for example because another agent has it.
    """
    remove_stale(uid, disk)
    remove_unused_shared_memory(uid)
    folder = disk / f"{PREFIX}{name}"
    make_private(folder, uid)
    with os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            remove_unused_shared_memory(uid)


def make_private(folder: Path, uid: int) -> None:
    """Make it, or take it if it is the user's alone. Raises OSError where somebody else was first."""
    folder.mkdir(mode=0o700, exist_ok=True)
    told = folder.lstat()
    if told.st_uid != uid or not stat.S_ISDIR(told.st_mode) or told.st_mode & 0o077:
        raise OSError(f"{folder} belongs to somebody else, or others may write to it")


def held(folder: Path, uid: int) -> IO[bytes]:
    """Make a private folder that several agents share; it is not stale while one of them has this open."""
    make_private(folder, uid)
    lock = (folder / LOCK).open("a+b")
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def remove_stale(uid: int, disk: Path = DISK) -> list[Path]:
    """Remove the user's folders whose lock nobody holds; returns them."""
    removed = []
    for folder in disk.glob(f"{PREFIX}*"):
        if _is_stale(folder, uid):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _is_stale(folder: Path, uid: int) -> bool:
    with contextlib.suppress(OSError):
        if folder.is_symlink() or folder.lstat().st_uid != uid:
            return False
        with (folder / LOCK).open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False
