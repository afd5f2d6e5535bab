"""The files of sessions: JSON lines, written whole or not at all, read without what was torn. Blocking."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag.errors import OutOfSpace

TITLE = 80
"""Characters of the first question."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Session:
    """One conversation. created, updated: unix times. turns: as they were kept, each with a `question`."""

    id: str
    collection: str
    created: float
    updated: float
    turns: tuple[Mapping[str, Any], ...] = ()

    @property
    def history(self) -> tuple[dict[str, str], ...]:
        """The conversation as messages."""
        return tuple(
            {"role": role, "content": str(turn.get(key, ""))}
            for turn in self.turns
            for role, key in (("user", "question"), ("assistant", "answer"))
        )

    def card(self) -> dict[str, Any]:
        first = " ".join(str(self.turns[0].get("question", "")).split()) if self.turns else ""
        return {
            "id": self.id, "title": first[:TITLE], "collection": self.collection, "created": self.created,
            "updated": self.updated, "turns": len(self.turns),
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return {**self.card(), "turns": [dict(turn) for turn in self.turns]}


def read_session(path: Path) -> Session:
    """Lines that are none are left out. Raises FileNotFoundError, also for what has no first line."""
    lines = path.read_bytes().split(b"\n")
    head, *turns = [value for value in map(_value, lines) if value is not None] or [{}]
    if "collection" not in head:
        raise FileNotFoundError(path)
    created = _seconds(head.get("created"), 0.0)
    updated = _seconds(turns[-1].get("at"), created) if turns else created
    return Session(path.stem, str(head["collection"]), created, updated, tuple(turns))


def _seconds(value: Any, otherwise: float) -> float:
    try:
        return float(value) if isinstance(value, int | float) else otherwise
    except OverflowError:
        return otherwise


def _value(line: bytes) -> dict[str, Any] | None:
    """None also for what could not be sent: no number, half of a surrogate pair."""
    try:
        value = json.loads(line)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _line(value: Mapping[str, Any]) -> bytes:
    """JSON escapes what UTF-8 cannot hold."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def updated_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def write_session(path: Path, head: Mapping[str, Any], turn: Mapping[str, Any], now: float) -> None:
    """A new file, there at once with its first turn. Raises OutOfSpace."""
    new = path.with_suffix(".new")
    with _on_a_full_disk(new):
        _make_folder(path.parent)
        _write_new(new, _line(head) + _line({**turn, "at": now}))
        os.utime(new, (now, now))
        new.replace(path)
        _sync_folder(path.parent)


def append_turn(path: Path, turn: Mapping[str, Any], now: float) -> None:
    """One more line; the file stays as it was if that fails. Raises FileNotFoundError, OutOfSpace."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink == 0:
            raise FileNotFoundError(path)
        _append(descriptor, _line({**turn, "at": now}))
        os.utime(descriptor, (now, now))
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _append(descriptor: int, line: bytes) -> None:
    """After the last whole line, whole or not at all."""
    end = _end_of_lines(descriptor)
    os.ftruncate(descriptor, end)
    os.lseek(descriptor, end, os.SEEK_SET)
    try:
        _write(descriptor, line)
        os.fsync(descriptor)
    except OSError as error:
        os.ftruncate(descriptor, end)
        if error.errno in _FULL:
            raise _out_of_space() from error
        raise


def _end_of_lines(descriptor: int) -> int:
    size = os.fstat(descriptor).st_size
    while size:
        start = max(0, size - 65_536)
        found = os.pread(descriptor, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _on_a_full_disk(unfinished: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        if error.errno in _FULL:
            raise _out_of_space() from error
        raise


def _out_of_space() -> OutOfSpace:
    return OutOfSpace("The disk is full; this turn of the session is not kept.")
