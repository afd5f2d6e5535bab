"""Keys: who may use the service. One private file holds them, but never their texts, which are shown once.

Several commands may change it at once while services read it: it is replaced whole, under a lock.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import shlex
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, field_validator, model_validator

from app.access.limits import Limits
from app.access.scopes import DEFAULT_SCOPES, check_scopes
from deployments.config import Section
from deployments.principal import ADMIN, Principal

KEY = re.compile(r"corral-([a-z2-7]{8})-([0-9a-f]{48})")
"""A key's text: its id, which is no secret, and 24 random bytes."""
FIRST_KEY = "first-key"
"""The file with the text of the key that is made where there is none."""
VERSION = 1
READS = 3
"""On NFS a file that is replaced while it is read is stale; the next try finds the new one."""
LONGEST_NAME = 64
_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_GROUP = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
_HEX = re.compile(r"[0-9A-Fa-f]{16,}")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_FULL = (errno.ENOSPC, errno.EDQUOT)

Record = TypeVar("Record", "KeyRecord", "GroupRecord")


class KeysError(Exception):
    """What is wrong with the keys, where, and what mends it."""


def _label(text: str) -> str:
    if not 1 <= len(text) <= LONGEST_NAME or text != text.strip() or not text.isprintable():
        raise ValueError(
            f"{text[:LONGEST_NAME]!r} is no name: 1 to {LONGEST_NAME} characters that can be printed, no space at the "
            "ends; for example 'alice, laptop'"
        )
    return text


def _group_name(text: str) -> str:
    if text and not _GROUP.fullmatch(text):
        raise ValueError(
            f"{text[:LONGEST_NAME]!r} is no name of a group: letters, digits, '.', '_' and '-', at most "
            f"{LONGEST_NAME}, a letter or digit first"
        )
    return text


Id = Annotated[str, StringConstraints(pattern=r"^[a-z2-7]{8}$")]
Label = Annotated[str, AfterValidator(_label)]
GroupName = Annotated[str, AfterValidator(_group_name)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Moment = Annotated[float, Field(ge=0, lt=32_503_680_000, allow_inf_nan=False)]
"""Unix time, before the year 3000."""
Salt = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Earlier(Section):
    """The text that a rotation replaced, which counts for a while."""

    salt: Salt = Field(repr=False)
    digest: Digest = Field(repr=False)
    until: Moment


class GroupRecord(Section):
    """Keys that share limits. Without a name: of the keys that belong to none."""

    name: GroupName = ""
    limits: Limits = Limits()
    weight: Weight = 1


class KeyRecord(Section):
    """What is kept of a key."""

    id: Id
    name: Label
    group: GroupName = ""
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    limits: Limits = Limits()
    weight: Weight = 1
    salt: Salt = Field(repr=False)
    digest: Digest = Field(repr=False)
    created: Moment
    expires: Moment | None = None
    revoked: Moment | None = None
    previous: Earlier | None = None

    @field_validator("scopes")
    @classmethod
    def _are_scopes(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        return check_scopes(scopes)

    def valid(self, now: float) -> bool:
        return self.why_not(now) is None

    def why_not(self, now: float) -> str | None:
        """Why this key is not taken. A revoked one never is, whatever the clock of the host that revoked it said."""
        if self.revoked is not None:
            return f"it was revoked on {moment_text(self.revoked)}"
        if self.expires is not None and now >= self.expires:
            return f"it expired on {moment_text(self.expires)}"
        return None

    def principal(self, group: GroupRecord) -> Principal:
        return Principal(self.id, self.group, self.scopes, self.weight, group.weight)


class KeyFile(Section):
    """All keys and groups, as they lie in the file."""

    version: Literal[1]
    groups: tuple[GroupRecord, ...]
    keys: tuple[KeyRecord, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [group.name for group in self.groups]
        if "" in names:
            raise ValueError("a group needs a name")
        for kind, found in (("group", names), ("key", [key.id for key in self.keys])):
            if twice := [each for each, times in Counter(found).items() if times > 1]:
                raise ValueError(f"the {kind} {twice[0]!r} is there twice")
        if strays := [key.id for key in self.keys if key.group and key.group not in names]:
            raise ValueError(f"the group of the key {strays[0]} is missing")
        return self

    @cached_property
    def by_id(self) -> dict[str, KeyRecord]:
        return {key.id: key for key in self.keys}

    def owner(self, text: str, now: float) -> KeyRecord | None:
        """Whose text this is, also if it expired or was revoked: to say why it is not taken."""
        match = KEY.fullmatch(text)
        record = self.by_id.get(match[1]) if match else None
        return record if record is not None and _is_text_of(record, text, now) else None

    def find(self, text: str, now: float) -> KeyRecord | None:
        """The valid key with this text."""
        record = self.owner(text, now)
        return record if record is not None and record.valid(now) else None

    def group(self, name: str) -> GroupRecord:
        """Without limits if there is none of that name."""
        return next((group for group in self.groups if group.name == name), GroupRecord(name=name))

    def named(self, reference: str) -> KeyRecord:
        """The key of this id, or the only one whose id begins so or that has this name. Raises KeysError."""
        match = KEY.fullmatch(reference)
        wanted = match[1] if match else reference
        if wanted in self.by_id:
            return self.by_id[wanted]
        found = [key for key in self.keys if key.name == wanted or (wanted and key.id.startswith(wanted))]
        if len(found) == 1:
            return found[0]
        shown = _HEX.sub("...", wanted[:LONGEST_NAME])  # an error must not repeat half a secret
        if not found:
            raise KeysError(f"there is no key {shown!r}; `corral keys list` shows those there are")
        which = ", ".join(f"{key.id} ({key.name})" for key in found)
        raise KeysError(f"{shown!r} may be each of {which}; write the id")

    def with_key(self, record: KeyRecord) -> KeyFile:
        """With this key in the place of the one with its id, or as the last."""
        keys = {**self.by_id, record.id: record}
        return KeyFile(version=VERSION, groups=self.groups, keys=tuple(keys.values()))

    def without_key(self, key_id: str) -> KeyFile:
        keys = tuple(key for key in self.keys if key.id != key_id)
        return KeyFile(version=VERSION, groups=self.groups, keys=keys)

    def with_group(self, record: GroupRecord) -> KeyFile:
        """With this group in the place of the one with its name, or as the last."""
        groups = {**{group.name: group for group in self.groups}, record.name: record}
        return KeyFile(version=VERSION, groups=tuple(groups.values()), keys=self.keys)


EMPTY = KeyFile(version=VERSION, groups=(), keys=())


def check(record: KeyRecord, text: str, now: float) -> bool:
    """Whether `text` is this key's and the key is valid. How long that takes does not depend on the text's secret."""
    return _is_text_of(record, text, now) and record.valid(now)


def moment_text(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


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
            key_id = _fresh_id(file)
            text, salt, digest = _fresh_text(key_id)
            record = KeyRecord(
                id=key_id, name=name, group=group, scopes=tuple(scopes), limits=limits, weight=weight, salt=salt,
                digest=digest, created=self._clock(), expires=expires,
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
            text, salt, digest = _fresh_text(old.id)
            earlier = Earlier(salt=old.salt, digest=old.digest, until=now + grace_s) if grace_s else None
            record = _changed(old, salt=salt, digest=digest, previous=earlier)
            write(file.with_key(record))
        return record, text

    def revoke(self, reference: str) -> KeyRecord:
        """The key is taken no more, for good."""
        with self._changing() as (file, write):
            record = file.named(reference)
            if record.revoked is None:
                record = _changed(record, revoked=self._clock(), previous=None)
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
            record = _shared_change(file.named(reference), limits, weight)
            if scopes is not None:
                record = _changed(record, scopes=tuple(scopes))
            if expires != "keep":
                record = _changed(record, expires=expires)
            write(file.with_key(record))
        return record

    def set_group(self, name: str, limits: Limits = Limits(), weight: float | None = None) -> GroupRecord:  # noqa: B008
        """Make or change a group, as `update` changes a key."""
        with self._changing() as (file, write):
            record = _shared_change(file.group(name), limits, weight)
            write(file.with_group(record))
        return record

    def create_first(self) -> Path | None:
        """See first_key. Its text is on the disk before it counts: a crash in between leaves no key without one."""
        if self.load().keys:
            return None
        with self._changing() as (file, write):
            if file.keys:
                return None
            key_id = _fresh_id(file)
            text, salt, digest = _fresh_text(key_id)
            record = KeyRecord(
                id=key_id, name="first", scopes=(ADMIN,), salt=salt, digest=digest, created=self._clock()
            )
            place = self._path.with_name(FIRST_KEY)
            _replace(place, text + "\n")
            write(file.with_key(record))
        return place

    @contextmanager
    def _changing(self) -> Iterator[tuple[KeyFile, Callable[[KeyFile], None]]]:
        """What the file holds, and what replaces it; nobody else changes it meanwhile."""
        path = _real(self._path)
        with _told(path):
            _make_folder(path.parent)
            with _locked(path.with_name(f"{path.name}.lock")):
                yield _read(path), lambda file: _replace(path, _text(file))


def first_key(path: Path, clock: Callable[[], float] = time.time) -> Path | None:
    """Where the store has no key at all: make one that may do everything, and the file with its text. Else None."""
    return KeyStore(path, clock).create_first()


def _fresh_id(file: KeyFile) -> str:
    while True:
        key_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(8))
        if key_id not in file.by_id:
            return key_id


def _fresh_text(key_id: str) -> tuple[str, str, str]:
    """A key's text, and what is kept of it: salt and digest."""
    text, salt = f"corral-{key_id}-{secrets.token_hex(24)}", secrets.token_hex(16)
    return text, salt, _digest(salt, text)


def _digest(salt: str, text: str) -> str:
    """A slow hash would cost every request and win nothing: nobody guesses 192 random bits."""
    return hashlib.sha256((salt + text).encode(errors="surrogatepass")).hexdigest()


def _is_text_of(record: KeyRecord, text: str, now: float) -> bool:
    ours = hmac.compare_digest(_digest(record.salt, text), record.digest)
    earlier = record.previous
    if earlier is None or now >= earlier.until:
        return ours
    return ours | hmac.compare_digest(_digest(earlier.salt, text), earlier.digest)


def _changed(record: Record, **changes: Any) -> Record:
    """A checked copy."""
    return type(record).model_validate({**dict(record), **changes})


def _shared_change(record: Record, limits: Limits, weight: float | None) -> Record:
    """What keys and groups have alike."""
    given = {name: getattr(limits, name) for name in limits.model_fields_set}
    together = record.limits.model_copy(update=given)
    return _changed(record, limits=together, weight=record.weight if weight is None else weight)


def _text(file: KeyFile) -> str:
    return json.dumps(file.model_dump(mode="json"), indent=1) + "\n"


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


def _make_folder(folder: Path) -> None:
    """For its owner alone, and so are those above it that are missing."""
    for each in reversed((folder, *folder.parents)):
        if not each.is_dir():
            each.mkdir(mode=0o700, exist_ok=True)
    _require_own(folder)


def _require_own(folder: Path) -> None:
    """Who may change the folder puts other files in the place of ours."""
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise KeysError(f"{folder} belongs to somebody else: have it removed, or set access.file to a folder of yours")
    if status.st_mode & 0o002:
        raise KeysError(f"everybody may write to {folder}: chmod o-w {folder}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for whoever holds it. The kernel frees it with its holder's death; flock works over NFS too."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: str) -> None:
    """A private file, there whole or as it was. The caller holds the lock: what lies beside it was left by a crash."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some disks know no such thing
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
