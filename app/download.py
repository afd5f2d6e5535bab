"""A file on its way from the hub: the bytes that are there, hashed as they come, and its place once they are right."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from app.hub import RemoteFile
from slurm.staging import StagedFile

READ = 4 << 20

Doing = Literal["wait", "check", "download"]


class _Digest:
    """Both hashes of a file, as its bytes come."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._blob = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        if not self._file.sha256:
            self._blob.update(chunk)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def right(self) -> bool:
        if self._file.sha256:
            return self.sha256 == self._file.sha256
        return self._blob.hexdigest() == self._file.blob


class Part:
    """A file that is not whole yet: what earlier runs left of it, and what is added."""

    def __init__(self, path: Path, file: RemoteFile, count: Callable[[Doing, int], None]) -> None:
        self._path = path
        self._file = file
        self._count = count
        self._stream = path.open("a+b")
        self._digest = _Digest(file)
        self.size = 0
        self.downloaded = 0

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def check(self) -> None:
        """Hash what is there, and forget it if it is too much."""
        self._stream.seek(0)
        while chunk := self._stream.read(READ):
            self._seen("check", chunk)
        if self.size > self._file.size:
            self.restart()

    def write(self, chunk: bytes) -> None:
        self._stream.write(chunk)
        self.downloaded += len(chunk)
        self._seen("download", chunk)

    def restart(self) -> None:
        """Forget what is there."""
        self._stream.truncate(0)
        self._count("download", -self.size)
        self.size, self._digest = 0, _Digest(self._file)

    def finish(self, path: Path) -> StagedFile | None:
        """Give it its place, if it is right."""
        if self.size != self._file.size or not self._digest.right:
            return None
        self._stream.flush()
        os.fsync(self._stream.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path.replace(path)
        return StagedFile(path=self._file.path, size=self.size, sha256=self._digest.sha256)

    def _seen(self, doing: Doing, chunk: bytes) -> None:
        self.size += len(chunk)
        self._digest.update(chunk)
        self._count(doing, len(chunk))
