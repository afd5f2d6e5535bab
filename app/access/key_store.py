"""The keys' file: who may use the service. It never holds the keys' texts, which are shown once.

Several commands may change it at once while services read it: it is replaced whole, under a lock.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from app.access.key_records import (
    EMPTY,
    VERSION,
    Earlier,
    GroupRecord,
    KeyFile,
    KeyRecord,
    KeysError,
    changed,
    fresh_text,
    new_key,
    shared_change,
)
from app.access.limits import Limits
from app.access.scopes import DEFAULT_SCOPES
from app.private_files import locked, make_folder, replace_file
from deployments.principal import ADMIN

FIRST_KEY = "first-key"
"""The file with the text of the key that is made where there is none."""
READS = 3
"""On NFS a file that is replaced while it is read is stale; the next try finds the new one."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class KeyStore:
    """The file of the keys. Every method raises KeysError for what it cannot do, and the file stays as it was."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock

    def load(self) -> KeyFile:
        """What the file holds; nothing where there is none."""
        with _told(self._path):
            return _read(self._path)

    def version(self) -> tuple[int, int, int] | None:
        """Something else after every change; None where there is no file.

        It is opened, for NFS answers a bare stat from its cache.
        """
        with _told(self._path), suppress(FileNotFoundError), _opened(self._path) as (_, status):
            return status.st_mtime_ns, status.st_size, status.st_ino
        return None

    def create(
        self, name: str, group: str = "", scopes: Sequence[str] = DEFAULT_SCOPES, limits: Limits = Limits(),  # noqa: B008 (frozen)
        weight: float = 1, expires: float | None = None,
    ) -> tuple[KeyRecord, str]:  # fmt: skip
        """A new key and its text, which is nowhere else. A group that does not exist is made, without limits."""
        with self._changing() as (file, write):
            record, text = new_key(
                file, self._clock(), name=name, group=group, scopes=tuple(scopes), limits=limits, weight=weight,
                expires=expires,
            )  # fmt: skip
            with_group = file.with_group(file.group(group)) if group else file
            write(with_group.with_key(record))
        return record, text

    def rotate(self, reference: str, grace_s: float = 0) -> tuple[KeyRecord, str]:
        """A new text for a key; the old one counts for `grace_s` more."""
        now = self._clock()
        with self._changing() as (file, write):
            old = file.named(reference)
            if reason := old.why_not(now):
                raise KeysError(f"the key {old.id} ({old.name}) cannot be rotated: {reason}; create another")
            text, salt, digest = fresh_text(old.id)
            earlier = Earlier(salt=old.salt, digest=old.digest, until=now + grace_s) if grace_s else None
            record = changed(old, salt=salt, digest=digest, previous=earlier)
            write(file.with_key(record))
        return record, text

    def revoke(self, reference: str) -> KeyRecord:
        """The key is taken no more, for good."""
        with self._changing() as (file, write):
            record = file.named(reference)
            if record.revoked is None:
                record = changed(record, revoked=self._clock(), previous=None)
                write(file.with_key(record))
        return record

    def remove(self, reference: str) -> KeyRecord:
        """Forget a revoked key."""
        with self._changing() as (file, write):
            record = file.named(reference)
            if record.revoked is None:
                raise KeysError(f"the key {record.id} ({record.name}) is not revoked; `corral keys revoke {record.id}`")
            write(file.without_key(record.id))
        return record

    def update(
        self, reference: str, *, scopes: Sequence[str] | None = None, limits: Limits = Limits(),  # noqa: B008 (frozen)
        weight: float | None = None, expires: float | Literal["keep"] | None = "keep",
    ) -> KeyRecord:  # fmt: skip
        """Change what is given, of limits those that are set in `limits` (None there lifts one)."""
        with self._changing() as (file, write):
            record = shared_change(file.named(reference), limits, weight)
            if scopes is not None:
                record = changed(record, scopes=tuple(scopes))
            if expires != "keep":
                record = changed(record, expires=expires)
            write(file.with_key(record))
        return record

    def set_group(self, name: str, limits: Limits = Limits(), weight: float | None = None) -> GroupRecord:  # noqa: B008
        """Make or change a group, as `update` changes a key."""
        with self._changing() as (file, write):
            record = shared_change(file.group(name), limits, weight)
            write(file.with_group(record))
        return record

    def create_first(self) -> Path | None:
        """See first_key. Its text is on the disk before it counts: a crash in between leaves no key without one."""
        if self.load().keys:
            return None
        with self._changing() as (file, write):
            if file.keys:
                return None
            record, text = new_key(file, self._clock(), name="first", scopes=(ADMIN,))
            place = self._path.with_name(FIRST_KEY)
            replace_file(place, f"{text}\n".encode(), under_lock=True)
            write(file.with_key(record))
        return place

    @contextmanager
    def _changing(self) -> Iterator[tuple[KeyFile, Callable[[KeyFile], None]]]:
        """What the file holds, and what replaces it; nobody else changes it meanwhile."""
        path = _real(self._path)
        with _told(path):
            make_folder(path.parent)
            _require_own(path.parent)
            with locked(path.with_name(f"{path.name}.lock")):
                yield _read(path), lambda file: replace_file(path, _content(file), under_lock=True)


def first_key(path: Path, clock: Callable[[], float] = time.time) -> Path | None:
    """Where the store has no key at all: make one that may do everything, and the file with its text. Else None."""
    return KeyStore(path, clock).create_first()


def _content(file: KeyFile) -> bytes:
    return json.dumps(file.model_dump(mode="json"), indent=1).encode() + b"\n"


def _read(path: Path) -> KeyFile:
    for _ in range(READS - 1):
        try:
            return _read_once(path)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return _read_once(path)


def _read_once(path: Path) -> KeyFile:
    try:
        with _opened(path) as (descriptor, status):
            _require_private(path, status)
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                content = stream.read()
    except FileNotFoundError:
        return EMPTY
    return _parsed(path, content)


def _parsed(path: Path, content: bytes) -> KeyFile:
    """Problems are told without what lies there: it might be a digest."""
    try:
        data = json.loads(content)
        found = data["version"]
        if isinstance(found, int) and found > VERSION:
            raise KeysError(f"{path} is of a newer Corral (version {found}, this one reads {VERSION}); update Corral")
        return KeyFile.model_validate(data)
    except ValidationError as error:
        raise _damaged(path, _problem(error)) from None
    except (ValueError, RecursionError, LookupError, TypeError):
        raise _damaged(path, "it is not what `corral keys` wrote") from None


def _damaged(path: Path, problem: str) -> KeysError:
    return KeysError(
        f"{path} is damaged: {problem}; put a copy of it in its place, or move it away, which ends every key that was "
        "given out"
    )


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"]
    text = message.removeprefix("Value error, ")
    return f"{where}{': ' if where else ''}{text if text != message else text[:1].lower() + text[1:]}"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would have it wait
    try:
        yield descriptor, os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _require_private(path: Path, status: os.stat_result) -> None:
    quoted = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise KeysError(f"{path} is no file; name one in access.file")
    if status.st_uid != os.geteuid():
        raise KeysError(
            f"{path} belongs to the user {status.st_uid}, who could make keys of their own; "
            f"`sudo chown {os.geteuid()} {quoted}`, or name a file of yours in access.file"
        )
    if mode := stat.S_IMODE(status.st_mode) & 0o077:
        done = "write" if mode & 0o022 else "read"
        raise KeysError(
            f"others may {done} {path} (mode {stat.S_IMODE(status.st_mode):04o}); `chmod 600 {quoted}` mends it"
            f"{', then see whether all of `corral keys list` is yours' if done == 'write' else ''}"
        )


def _real(path: Path) -> Path:
    """Behind links, or a change would replace the link."""
    return Path(os.path.realpath(path))


def _require_own(folder: Path) -> None:
    """Who may change the folder puts other files in the place of ours."""
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise KeysError(f"{folder} belongs to somebody else: have it removed, or set access.file to a folder of yours")
    if status.st_mode & 0o002:
        raise KeysError(f"everybody may write to {folder}: chmod o-w {folder}")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What is wrong with a record, or what the disk refuses, as KeysError."""
    try:
        yield
    except ValidationError as error:
        raise KeysError(_problem(error)) from None
    except OSError as error:
        where, why = error.filename or path, error.strerror or str(error)
        raise KeysError(f"{where}: {why}; {_way_out(error)}") from error


def _way_out(error: OSError) -> str:
    if error.errno in _FULL:
        return "free some room there; nothing was changed"
    if error.errno in _NO_LOCKS:
        return "that disk knows no locks; name a file on another disk in access.file"
    return "name a file in access.file that you may read and write"
