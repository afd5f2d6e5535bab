"""Weights on their way: what a staged folder says of itself, and its copy on a node's own disk.

A staged folder has `corral-manifest.json`, written last: where it is, every file was there and had the right hash.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

MANIFEST = "corral-manifest.json"
COPIED = ".corral-copy"
"""Marks a folder that `copy` made, and so may replace."""
CHUNK = 4 << 20
WORKERS = 4
"""Files at once: one stream alone fills neither a parallel file system nor a link."""
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
STEPS = 10_000
"""Progress is told this often at most, whatever the size."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
GIB = 1 << 30

Item = TypeVar("Item")
Done = TypeVar("Done")
OnBytes = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all; may come from any thread, but never from two at once."""


class StagingError(Exception):
    """Weights cannot be had or put somewhere. The text is one line that says what to do."""


class NoRoom(StagingError):
    """The disk, or the quota on it, is full or too small."""


def plain_path(path: str) -> str:
    """The same path, if it stays below the folder it is relative to. Raises ValueError."""
    if not path or path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path:
        raise ValueError(f"{path!r} is no path inside a model's folder")
    return path


class StagedFile(BaseModel):
    """A file of a staged folder: its path inside it, its bytes, its hash in hexadecimal."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int = Field(ge=0)
    sha256: str

    @field_validator("path")
    @classmethod
    def _is_inside(cls, path: str) -> str:
        return plain_path(path)


class Manifest(BaseModel):
    """All that a staged folder holds; `source` is the hub id, `revision` the commit."""

    model_config = ConfigDict(frozen=True)

    source: str
    revision: str
    files: tuple[StagedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def complete(self, folder: Path) -> bool:
        """Whether every file is in `folder` with its size (a purge of old files may have taken some)."""
        return all(_size(folder / file.path) == file.size for file in self.files)


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest, or None where there is none that can be read."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it, whole or not at all."""
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / MANIFEST)


def copy(
    source: Path,
    target: Path,
    on_progress: OnBytes = lambda done, total: None,
    on_wait: Callable[[], None] = lambda: None,
) -> bool:
    """Copy a folder of weights to a node's own disk; False if it is there already. Hidden files stay behind.

    The target appears whole, or not at all. Where another process of this node is at it, `on_wait` is called and the
    other's end is waited for. Raises NoRoom, StagingError.
    """
    with disk_errors(target), locked(target.with_name(f".{target.name}.lock"), on_wait):
        manifest, files = _listed(source)
        total = sum(file.size for file in files)
        on_progress(0, total)
        if _is_copy(target, manifest, files):
            on_progress(total, total)
            return False
        _replace(source, target, files, Meter(total, on_progress))
    return True


class Meter:
    """Counts bytes that several threads move. `total` is in bytes, too."""

    def __init__(self, total: int, on_bytes: OnBytes) -> None:
        self._total = total
        self._on_bytes = on_bytes
        self._done = self._told = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def add(self, count: int) -> None:
        """Bytes more, or less where some were wrong. Raises in the threads that are to stop."""
        self._go_on()
        with self._lock:
            self._done += count
            if abs(self._done - self._told) * STEPS >= self._total or self._done == self._total:
                self._told = self._done
                self._on_bytes(self._done, self._total)

    def pause(self, seconds: float) -> None:
        """Wait. Raises in the threads that are to stop, also while they wait."""
        self._stopped.wait(seconds)
        self._go_on()

    def stop(self) -> None:
        """Have every thread that counts here end."""
        self._stopped.set()

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise StagingError("stopped, because another file failed")


def each(work: Callable[[Item], Done], items: Sequence[Item], meter: Meter) -> list[Done]:
    """The results of `work`, in order, from a few threads; the first failure (or Ctrl-C) stops the others."""
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="weights") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            meter.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Be the only one who holds `path`; `on_wait` is called once if another does.

    A disk that knows no locks is used without: what is read and written there is checked by its hash anyway.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            _lock(file.fileno(), on_wait)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """What the disk of `folder` complains of, as StagingError."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise NoRoom(f"{folder}: the disk, or your quota on it, is full; free some room there") from error
        where, why = error.filename or folder, error.strerror or str(error)
        if error.errno in FORBIDDEN:
            raise StagingError(f"{where}: {why}; choose a folder that you may write to") from error
        raise StagingError(f"{where}: {why}") from error


def need_room(folder: Path, size: int) -> None:
    """Raise NoRoom if the disk of `folder`, which must exist, has fewer free bytes. Quotas do not show here."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise NoRoom(
            f"{folder}: {_shown(size)} are needed, {_shown(free)} are free; free some room, or choose another folder"
        )


@dataclass(frozen=True)
class _File:
    """A file to copy, and what its copy is known by: its hash, or else the second of its last change."""

    path: str
    size: int
    sha256: str | None = None
    changed: int | None = None


def _listed(source: Path) -> tuple[Manifest | None, list[_File]]:
    """What a folder holds: by its manifest, or else what lies there. Raises StagingError if something is missing."""
    manifest = read_manifest(source)
    if manifest is None:
        return None, _found(source)
    if not manifest.complete(source):
        raise StagingError(f"{source}: files are missing or cut short; run `corral fetch` again")
    return manifest, [_File(file.path, file.size, file.sha256) for file in manifest.files]


def _found(source: Path) -> list[_File]:
    files = []
    for root, folders, names in os.walk(source):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(root, name) for name in sorted(names) if not name.startswith(".")):
            status = path.stat()
            files.append(_File(str(path.relative_to(source)), status.st_size, changed=int(status.st_mtime)))
    if not files:
        raise StagingError(f"{source}: there are no weights; name a folder with a checkpoint, or run `corral fetch`")
    return files


def _is_copy(target: Path, manifest: Manifest | None, files: Sequence[_File]) -> bool:
    return read_manifest(target) == manifest and all(_is_there(target / file.path, file) for file in files)


def _is_there(path: Path, file: _File) -> bool:
    if _size(path) != file.size:
        return False
    return file.changed is None or int(path.stat().st_mtime) == file.changed


def _replace(source: Path, target: Path, files: Sequence[_File], meter: Meter) -> None:
    """Copy beside the target, then rename. What an earlier copy left there goes first: it may be in the way."""
    temporary = target.with_name(f".{target.name}.copying")
    shutil.rmtree(temporary, ignore_errors=True)
    _clear(target)
    need_room(target.parent, sum(file.size for file in files))
    try:
        temporary.mkdir()
        each(lambda file: _copy_file(source, temporary, file, meter), files, meter)
        if (source / MANIFEST).exists():
            shutil.copyfile(source / MANIFEST, temporary / MANIFEST)
        (temporary / COPIED).touch()
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _clear(target: Path) -> None:
    """Remove an older copy. Raises StagingError rather than remove what is not ours."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / COPIED).exists():
        raise StagingError(f"{target} exists and is no copy of weights; remove it, or choose another folder")
    shutil.rmtree(target)


def _copy_file(source: Path, target: Path, file: _File, meter: Meter) -> None:
    """One pass: read, hash, write. Raises StagingError if it is not what the manifest says."""
    digest, size, path = hashlib.sha256(), 0, target / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with (source / file.path).open("rb") as reader, path.open("wb") as writer:
        while chunk := reader.read(CHUNK):
            writer.write(chunk)
            size += len(chunk)
            if file.sha256:
                digest.update(chunk)
            meter.add(len(chunk))
    if size != file.size or (file.sha256 and digest.hexdigest() != file.sha256):
        raise StagingError(f"{source / file.path} is not what was fetched; run `corral fetch --verify`")
    if file.changed is not None:
        os.utime(path, (file.changed, file.changed))


def _lock(descriptor: int, on_wait: Callable[[], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _size(path: Path) -> int | None:
    """Bytes of a file, or None if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _shown(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.1f} MiB"
