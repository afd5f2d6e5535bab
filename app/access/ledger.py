"""What has been used: counts by day (UTC), key, group and model, in one SQLite file.

Counts gather in memory and are written together, in one transaction that adds them. One process writes the file, all
of it from the thread that opened it. It lies on a local disk; copies of it may lie anywhere.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime
from operator import add, attrgetter
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger("corral.ledger")

VERSION = 1
"""Of the tables, in the file's user_version."""
MARK = 0x434F5252
"""The file's application_id: by it a ledger is known."""
LIVE, KEPT = "?mode=rw", "?mode=ro&immutable=1"
"""How the ledger is opened, and a copy, which nobody changes: without locks."""
LOCKED_S = 2.0
"""So long is waited for somebody who reads the file."""
Field = Literal["day", "key", "group", "model"]
FIELDS: tuple[Field, ...] = ("day", "key", "group", "model")
Who = tuple[str, str, str, str]
"""A row's day, key, group and model."""


class LedgerError(Exception):
    """The file cannot be read or written; the message says which and why."""


@dataclass(frozen=True)
class Counts:
    """refused, failed: of the requests. bulk_items: that were answered."""

    requests: int = 0
    refused: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    bulk_items: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(add, NUMBERS(self), NUMBERS(other)))


@dataclass(frozen=True)
class UsageRow:
    """What was not asked for apart is None: it is summed up."""

    day: date | None
    key: str | None
    group: str | None
    model: str | None
    counts: Counts

    def to_json(self) -> dict[str, Any]:
        """Without what is summed up."""
        names = {name: getattr(self, name) for name in FIELDS}
        told = {name: str(value) for name, value in names.items() if value is not None}
        return told | asdict(self.counts)


COLUMNS = tuple(column.name for column in fields(Counts))
NUMBERS = attrgetter(*COLUMNS)
MAKE = (
    f"""CREATE TABLE usage (day TEXT NOT NULL, key TEXT NOT NULL, "group" TEXT NOT NULL, model TEXT NOT NULL,
    {", ".join(f"{column} INTEGER NOT NULL" for column in COLUMNS)},
    PRIMARY KEY (day, key, "group", model)) WITHOUT ROWID""",
    f"PRAGMA application_id = {MARK}",
    f"PRAGMA user_version = {VERSION}",
)
ADD = f"""INSERT INTO usage VALUES (?, ?, ?, ?, {", ".join("?" for _ in COLUMNS)})
ON CONFLICT (day, key, "group", model)
DO UPDATE SET {", ".join(f"{column} = {column} + excluded.{column}" for column in COLUMNS)}"""  # noqa: S608
READ = f"""SELECT day, key, "group", model, {", ".join(COLUMNS)} FROM usage
WHERE day BETWEEN ? AND ? AND (? IS NULL OR key = ?)"""  # noqa: S608


class Snapshot:
    """A ledger as it was, in memory. It may be saved by another thread, once: the disk of a copy may be slow."""

    def __init__(self, memory: sqlite3.Connection) -> None:
        self._memory = memory

    def save(self, path: Path) -> None:
        """The file there is replaced at once, or stays as it was. Raises LedgerError."""
        with closing(self._memory), _told(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _save(self._memory, path)


class Ledger:
    """Made by `open`. Of one thread."""

    def __init__(self, path: Path, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self._path, self._connection, self._clock = path, connection, clock
        self._pending: dict[Who, Counts] = {}

    @classmethod
    def open(cls, path: Path, seed: Path | None = None, clock: Callable[[], float] = time.time) -> Ledger:
        """The ledger in `path`. Where there is none yet, it begins with what an earlier job left in `seed`, if it did.

        A damaged file is moved aside. Raises LedgerError for one that a newer Corral wrote, or that is no ledger.
        """
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _clear_damaged(path, LIVE, clock)
        if seed and not path.exists():
            with _told(f"{seed} to {path}"):
                _clear_damaged(seed, KEPT, clock)
                if seed.exists():
                    with closing(_connected(seed, KEPT)) as source:
                        _save(source, path)
        with _told(path):
            return cls(path, _ready(path), clock)

    def note(self, key: str, group: str, model: str, counts: Counts) -> None:
        """Costs no I/O. model: one that there is, or "", for every name makes a row."""
        who = (_day(self._clock()), key, group, model)
        self._pending[who] = self._pending.get(who, Counts()) + counts

    def flush(self) -> None:
        """Writes all that was noted. Raises LedgerError, and then a later call writes it."""
        if not self._pending:
            return
        with _told(self._path):
            try:
                _write(self._connection, self._pending)
            except sqlite3.DatabaseError as error:
                self._repair(error)
                _write(self._connection, self._pending)
        self._pending = {}

    def copy_to(self, path: Path) -> None:
        """As a snapshot that is saved at once."""
        self.snapshot().save(path)

    def snapshot(self) -> Snapshot:
        """All of it as it is now, with what is not flushed yet."""
        memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        try:
            with _told(self._path):
                _back_up(self._connection, memory)
                _write(memory, self._pending)
        except BaseException:
            memory.close()
            raise
        return Snapshot(memory)

    def usage(
        self, since: date | None = None, until: date | None = None, key: str | None = None,
        by: Sequence[Field] = ("day", "key", "model"),
    ) -> list[UsageRow]:  # fmt: skip
        """Both days are counted in. Sorted by what is asked for apart; with what is not flushed yet."""
        first, last = str(since or date.min), str(until or date.max)
        sums: dict[Who, Counts] = {}
        with _told(self._path):
            written = [(row[:4], Counts(*row[4:])) for row in self._connection.execute(READ, (first, last, key, key))]
        for who, counts in (*written, *self._pending.items()):
            if first <= who[0] <= last and (key is None or key == who[1]):
                apart = _apart(who, by)
                sums[apart] = sums.get(apart, Counts()) + counts
        return [_row(who, counts, by) for who, counts in sorted(sums.items(), key=lambda each: each[0])]

    def close(self) -> None:
        """Flush and close. Raises LedgerError if what was noted is lost."""
        with closing(self._connection):
            self.flush()

    def _repair(self, error: sqlite3.DatabaseError) -> None:
        """A file that can be written again. Raises `error` if that would not help."""
        if _is_damage(error):
            _set_aside(self._path, self._clock, str(error))
        elif _code(error) == sqlite3.SQLITE_READONLY_DBMOVED and not self._path.exists():
            log.warning("somebody deleted the ledger %s: it is written again", self._path)
            _save(self._connection, self._path)
        else:
            raise error
        connection = _ready(self._path)
        self._connection.close()
        self._connection = connection


@contextmanager
def _told(where: object) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(f"{where}: {error}") from error


def _day(now_s: float) -> str:
    return datetime.fromtimestamp(now_s, UTC).date().isoformat()


def _apart(who: Who, by: Sequence[Field]) -> Who:
    day, key, group, model = (value if name in by else "" for name, value in zip(FIELDS, who, strict=True))
    return day, key, group, model


def _row(who: Who, counts: Counts, by: Sequence[Field]) -> UsageRow:
    day, key, group, model = (value if name in by else None for name, value in zip(FIELDS, who, strict=True))
    return UsageRow(date.fromisoformat(day) if day else None, key, group, model, counts)


def _connected(path: Path, query: str = LIVE) -> sqlite3.Connection:
    """Of a file that is there, without transactions of Python's own."""
    return sqlite3.connect(path.absolute().as_uri() + query, uri=True, timeout=LOCKED_S, isolation_level=None)


def _ready(path: Path) -> sqlite3.Connection:
    """The file opened, for its owner alone, and made if need be."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    connection = _connected(path)
    try:
        with _transaction(connection):
            if _version(connection, path) == 0:
                for statement in MAKE:
                    connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Of its tables, 0 if there are none. Raises LedgerError if this program cannot know them.

    It looks at the file's header alone: tables of a newer version may look damaged.
    """
    mark, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if mark == MARK and version > VERSION:
        raise LedgerError(
            f"{path}: a newer Corral wrote it (version {version}, this one knows {VERSION}): update Corral"
        )
    if mark != MARK and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise LedgerError(f"{path}: it is a database, but no ledger of Corral: give another file, or move it away")
    return int(version) if mark == MARK else 0


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # what fills the disk is rolled back already
            connection.execute("ROLLBACK")
        raise


def _write(connection: sqlite3.Connection, pending: Mapping[Who, Counts]) -> None:
    with _transaction(connection):
        connection.executemany(ADD, ((*who, *NUMBERS(counts)) for who, counts in pending.items()))


def _save(source: sqlite3.Connection, path: Path) -> None:
    """By way of a file beside it, which becomes `path` when it is whole."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
    try:
        # Nobody else knows the file. It needs no locks, which not every file system has, and no way back.
        with closing(_connected(Path(name), "?mode=rw&nolock=1")) as target:
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            _back_up(source, target)
        os.fsync(descriptor)
        Path(name).replace(path)
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


def _back_up(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    with _reading(source):
        source.backup(target)


@contextmanager
def _reading(connection: sqlite3.Connection) -> Iterator[None]:
    """Keeps out whoever would write. Without it a backup waits for other writers without end."""
    connection.execute("BEGIN")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield
    finally:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _clear_damaged(path: Path, query: str, clock: Callable[[], float]) -> None:
    """Moves the file aside if it is damaged. Raises LedgerError if it is another's or newer."""
    if not path.exists():
        return
    with closing(_connected(path, query)) as connection:
        damage = _damage(connection, path)
    if damage:
        _set_aside(path, clock, damage)


def _damage(connection: sqlite3.Connection, path: Path) -> str | None:
    try:
        _version(connection, path)
        found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
        return str(error)
    return None if found == "ok" else found


def _is_damage(error: sqlite3.Error) -> bool:
    return _code(error) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: sqlite3.Error) -> int:
    """SQLite's extended one; 0 for errors of Python's module."""
    return int(getattr(error, "sqlite_errorcode", 0))


def _set_aside(path: Path, clock: Callable[[], float], damage: str) -> None:
    """With its journal, which would be taken for the next file's."""
    aside = path.with_name(f"{path.name}.damaged-{datetime.fromtimestamp(clock(), UTC):%Y%m%dT%H%M%SZ}")
    for suffix in ("", "-journal"):
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").replace(f"{aside}{suffix}")
    log.warning("the ledger %s was damaged (%s): it is kept as %s, and counting begins anew", path, damage, aside)
