"""Private files: of their owner alone, replaced whole, changed under a lock, in folders of their owner's alone."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def make_folder(folder: Path) -> None:
    """For its owner alone, and so are those above it that are missing."""
    for each in reversed((folder, *folder.parents)):
        if not each.is_dir():
            each.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for whoever holds it. The kernel frees it with its holder's death; flock works over NFS too."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """What the next start makes anew: it does not wait for the disk. Else as replace_file."""
    with replacing(path, lasting=False) as (descriptor, _):
        _fill(descriptor, text.encode(), mode)


def replace_file(path: Path, content: bytes, mode: int = 0o600, *, under_lock: bool = False) -> None:
    """What must outlast a power cut. Readers see the old file or the new one; of two who write, one wins whole.

    Until it is whole, nobody but its owner can read it.
    """
    with replacing(path, under_lock=under_lock) as (descriptor, _):
        _fill(descriptor, content, mode)


@contextmanager
def replacing(path: Path, *, under_lock: bool = False, lasting: bool = True) -> Iterator[tuple[int, Path]]:
    """A new file beside it, open for writing, which becomes `path` at the end; if that fails, `path` stays as it was.

    A link in its place is replaced, not followed. Under a lock the new one's name is always the same, so that what a
    crash left is cleared by the next.
    """
    descriptor, new = _fresh(path) if under_lock else _fresh_of_any_name(path)
    try:
        try:
            yield descriptor, new
            if lasting:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)  # before it has its name: NFS shows others only what is closed
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    if lasting:
        _sync_folder(path.parent)


def make_file(path: Path) -> None:
    """Empty where there is none; in either case for its owner alone from here on."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _fill(descriptor: int, content: bytes, mode: int) -> None:
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.fchmod(descriptor, mode)


def _fresh(path: Path) -> tuple[int, Path]:
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    return os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), new


def _fresh_of_any_name(path: Path) -> tuple[int, Path]:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600, whatever the umask
    return descriptor, Path(name)


def _sync_folder(folder: Path) -> None:
    """So that a power cut does not bring back what was replaced."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some disks know no such thing
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
