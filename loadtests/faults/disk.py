"""A disk of a service's own, small enough to be filled: only root can mount one."""

from __future__ import annotations

import errno
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
SIZE = 384 * MIB
"""A service of one pocket model has laid down 27 MiB by the time it answers."""
FOLDER = "/tmp"
PIECES = (MIB, 4096, 1)


class DiskError(Exception):
    """There is no such disk here; the message says why."""


@dataclass(frozen=True)
class Disk:
    """A file system of its own at `folder`."""

    folder: Path

    @classmethod
    def below(cls, path: Path) -> Disk:
        """The small one that `path` lies on. Raises DiskError: a whole machine's is not to be filled."""
        for folder in (path, *path.parents):
            if os.path.ismount(folder):
                break
        size = os.statvfs(folder)
        if size.f_blocks * size.f_frsize > SIZE:
            raise DiskError(f"{path} lies on {folder}, which is no disk of its own that may be filled")
        return cls(folder)

    @property
    def left(self) -> int:
        """Bytes that still fit."""
        told = os.statvfs(self.folder)
        return told.f_bavail * told.f_frsize

    @contextmanager
    def full(self) -> Iterator[None]:
        """To the last byte, for as long as the block lasts."""
        filler = self.folder / "filler"
        self.fill(filler)
        try:
            yield
        finally:
            filler.unlink()

    def fill(self, filler: Path) -> None:
        with filler.open("wb", buffering=0) as file:
            while self.left:  # what others gave back meanwhile, too
                for size in PIECES:
                    with suppress(OSError):
                        while file.write(bytes(size)):
                            pass


@contextmanager
def small_disk() -> Iterator[Disk]:
    """A new one; gone when the block ends. Raises DiskError where mounting is not permitted."""
    folder = Path(FOLDER, secrets.token_hex(3))  # as short as a service's folder has to be
    folder.mkdir(mode=0o700)
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "none", str(folder))
        try:
            yield Disk(folder)
        finally:
            _run("umount", "-l", str(folder))
    finally:
        folder.rmdir()


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise DiskError(f"{words[0]}: {os.strerror(error.errno or errno.ENOENT)}") from None
    if done.returncode:
        raise DiskError(f"{words[0]} ended with status {done.returncode}: {done.stderr.strip()}")
