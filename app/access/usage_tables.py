"""The ledger's tables in SQLite: made, read, written, merged, and told from what is damaged or somebody else's.

A row has a writer's counts. A writer adds to its own rows alone, so of two copies of a row the larger is the later one,
and files merge in any order and as often as one likes.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from app.access.counts import COLUMNS, NUMBERS, Counts, Who
from app.private_files import make_file, replacing

log = logging.getLogger("corral.ledger")

VERSION = 2
"""Of the tables, in the file's user_version. The first had no writers."""
MARK = 0x434F5252
"""The file's application_id: by it a ledger is known."""
LIVE, KEPT = "?mode=rw", "?mode=ro&immutable=1"
"""How the ledger is opened, and a copy, which nobody changes: without locks."""
LOCKED_S = 2.0
"""So long is waited for somebody who reads the file."""
Row = tuple[str | int, ...]
"""Writer, day, key, group, model, and the counts."""

COLUMN_LIST = ", ".join(COLUMNS)
CREATE = f"""CREATE TABLE usage (writer TEXT NOT NULL, day TEXT NOT NULL, key TEXT NOT NULL, "group" TEXT NOT NULL,
model TEXT NOT NULL, {", ".join(f"{column} INTEGER NOT NULL" for column in COLUMNS)},
PRIMARY KEY (day, key, "group", model, writer)) WITHOUT ROWID"""
MARKED = (f"PRAGMA application_id = {MARK}", f"PRAGMA user_version = {VERSION}")
MAKE = (CREATE, *MARKED)
UPGRADE = (
    "ALTER TABLE usage RENAME TO before",
    CREATE,
    f"""INSERT INTO usage SELECT '', day, key, "group", model, {COLUMN_LIST} FROM before""",  # noqa: S608
    "DROP TABLE before",
    *MARKED,
)
INSERT = f"""INSERT INTO usage VALUES (?, ?, ?, ?, ?, {", ".join("?" for _ in COLUMNS)})
ON CONFLICT (day, key, "group", model, writer) DO UPDATE SET """  # noqa: S608
ADD = INSERT + ", ".join(f"{column} = {column} + excluded.{column}" for column in COLUMNS)
MERGE = INSERT + ", ".join(f"{column} = max({column}, excluded.{column})" for column in COLUMNS)
READ = f"""SELECT day, key, "group", model, {", ".join(f"sum({column})" for column in COLUMNS)} FROM usage
WHERE day BETWEEN ? AND ? AND (? IS NULL OR key = ?) GROUP BY day, key, "group", model"""  # noqa: S608
READ_ALL = f"""SELECT writer, day, key, "group", model, {COLUMN_LIST} FROM usage"""  # noqa: S608


class LedgerError(Exception):
    """The file cannot be read or written; the message says which and why."""


class NotOurs(LedgerError):
    """The file is a newer Corral's or no ledger: it is left alone."""


@contextmanager
def told(where: object) -> Iterator[None]:
    """What SQLite or the disk refuses, as LedgerError."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(f"{where}: {error}") from error


def opened(path: Path) -> sqlite3.Connection:
    """The file, for its owner alone, and made or brought up to date if need be."""
    make_file(path)
    connection = _connected(path)
    try:
        _bring_up_to_date(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def rows_of(path: Path) -> list[Row]:
    """All that is in a copy, which stays as it is. Raises NotOurs."""
    with closing(_connected(path, KEPT)) as copy, closing(in_memory()) as memory:
        copy.backup(memory)
        _bring_up_to_date(memory, path)
        return list(memory.execute(READ_ALL))


def in_memory() -> sqlite3.Connection:
    """Empty; another thread may use it."""
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def add_rows(connection: sqlite3.Connection, writer: str, pending: Mapping[Who, Counts]) -> None:
    with _transaction(connection):
        connection.executemany(ADD, ((writer, *who, *NUMBERS(counts)) for who, counts in pending.items()))


def merge_rows(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    with _transaction(connection):
        connection.executemany(MERGE, rows)


def save_whole(source: sqlite3.Connection, path: Path) -> None:
    """There whole, or as it was."""
    # Nobody else knows the new file. It needs no locks, which not every file system has, and no way back.
    with replacing(path) as (_, new), closing(_connected(new, "?mode=rw&nolock=1")) as target:
        target.execute("PRAGMA journal_mode = OFF")
        target.execute("PRAGMA synchronous = OFF")
        back_up(source, target)


def back_up(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    with _reading(source):
        source.backup(target)


def clear_damaged(path: Path, clock: Callable[[], float], query: str = LIVE) -> None:
    """Moves the file aside if it is damaged. Raises NotOurs if it is another's or newer."""
    if not path.exists():
        return
    with closing(_connected(path, query)) as connection:
        damage = _damage(connection, path)
    if damage:
        set_aside(path, clock, damage)


def is_damage(error: sqlite3.Error) -> bool:
    return code_of(error) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def code_of(error: sqlite3.Error) -> int:
    """SQLite's extended one; 0 for errors of Python's module."""
    return int(getattr(error, "sqlite_errorcode", 0))


def set_aside(path: Path, clock: Callable[[], float], damage: str) -> None:
    """With its journal, which would be taken for the next file's."""
    aside = path.with_name(f"{path.name}.damaged-{stamp(clock)}")
    for suffix in ("", "-journal"):
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").replace(f"{aside}{suffix}")
    log.warning("the ledger %s was damaged (%s): it is kept as %s, and counting begins anew", path, damage, aside)


def stamp(clock: Callable[[], float]) -> str:
    return f"{datetime.fromtimestamp(clock(), UTC):%Y%m%dT%H%M%SZ}"


def _connected(path: Path, query: str = LIVE) -> sqlite3.Connection:
    """Of a file that is there, without transactions of Python's own."""
    return sqlite3.connect(path.absolute().as_uri() + query, uri=True, timeout=LOCKED_S, isolation_level=None)


def _bring_up_to_date(connection: sqlite3.Connection, path: Path) -> None:
    with _transaction(connection):
        version = _version(connection, path)
        for statement in {0: MAKE, VERSION: ()}.get(version, UPGRADE):
            connection.execute(statement)


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Of its tables, 0 if there are none. Raises NotOurs if this program cannot know them.

    It looks at the file's header alone: tables of a newer version may look damaged.
    """
    mark, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if mark == MARK and version > VERSION:
        raise NotOurs(f"{path}: a newer Corral wrote it (version {version}, this one knows {VERSION}): update Corral")
    if mark != MARK and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise NotOurs(f"{path}: it is a database, but no ledger of Corral: give another file, or move it away")
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


def _damage(connection: sqlite3.Connection, path: Path) -> str | None:
    try:
        _version(connection, path)
        found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return str(error)
    return None if found == "ok" else found
