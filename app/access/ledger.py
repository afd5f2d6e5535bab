"""The ledger: what has been used, in one SQLite file of the process that counts.

Counts gather in memory and are written together, in one transaction that adds them. One process writes the file, all
of it from the thread that opened it. It lies on a local disk; copies of it may lie anywhere, and what others counted is
merged in (usage_copies.py).
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path

from app.access.counts import Counts, Field, UsageRow, Who, apart, day_of
from app.access.usage_tables import (
    READ,
    Row,
    add_rows,
    back_up,
    clear_damaged,
    code_of,
    in_memory,
    is_damage,
    merge_rows,
    opened,
    save_whole,
    set_aside,
    stamp,
    told,
)
from app.private_files import make_folder

log = logging.getLogger("corral.ledger")


class Snapshot:
    """A ledger as it was, in memory. It may be saved by another thread, once: the disk of a copy may be slow."""

    def __init__(self, memory: sqlite3.Connection, writer: str) -> None:
        self._memory, self.writer = memory, writer

    def save(self, path: Path) -> None:
        """The file there is replaced at once, or stays as it was. Raises LedgerError."""
        with closing(self._memory), told(path):
            make_folder(path.parent)
            save_whole(self._memory, path)


class Ledger:
    """Made by `open`. Of one thread. writer: whose counts are added to; nobody else's ever has this name."""

    def __init__(self, path: Path, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self._path, self._connection, self._clock = path, connection, clock
        self._pending: dict[Who, Counts] = {}
        self.writer = new_writer(clock)

    @classmethod
    def open(cls, path: Path, clock: Callable[[], float] = time.time) -> Ledger:
        """The ledger in `path`, which is made if there is none.

        A damaged file is moved aside. Raises LedgerError for one that a newer Corral wrote, or that is no ledger.
        """
        with told(path):
            make_folder(path.parent)
            clear_damaged(path, clock)
            return cls(path, opened(path), clock)

    def note(self, key: str, group: str, model: str, counts: Counts) -> None:
        """Costs no I/O. model: one that there is, or "", for every name makes a row."""
        who = (day_of(self._clock()), key, group, model)
        self._pending[who] = self._pending.get(who, Counts()) + counts

    def flush(self) -> None:
        """Writes all that was noted. Raises LedgerError, and then a later call writes it."""
        if not self._pending:
            return
        with told(self._path):
            try:
                add_rows(self._connection, self.writer, self._pending)
            except sqlite3.DatabaseError as error:
                self._repair(error)
                add_rows(self._connection, self.writer, self._pending)
        self._pending = {}

    def merge(self, rows: Iterable[Row]) -> None:
        """What other writers counted, as far as it is news. Raises LedgerError, and then nothing of it is."""
        theirs = [row for row in rows if row[0] != self.writer]
        if theirs:
            with told(self._path):
                merge_rows(self._connection, theirs)

    def snapshot(self) -> Snapshot:
        """All of it as it is now, with what is not flushed yet."""
        memory = in_memory()
        try:
            with told(self._path):
                back_up(self._connection, memory)
                add_rows(memory, self.writer, self._pending)
        except BaseException:
            memory.close()
            raise
        return Snapshot(memory, self.writer)

    def usage(
        self, since: date | None = None, until: date | None = None, key: str | None = None,
        by: Sequence[Field] = ("day", "key", "model"),
    ) -> list[UsageRow]:  # fmt: skip
        """Both days are counted in. Sorted by what is asked for apart; with what is not flushed yet."""
        first, last = str(since or date.min), str(until or date.max)
        sums: dict[Who, Counts] = {}
        with told(self._path):
            written = [(row[:4], Counts(*row[4:])) for row in self._connection.execute(READ, (first, last, key, key))]
        for who, counts in (*written, *self._pending.items()):
            if first <= who[0] <= last and (key is None or key == who[1]):
                told_apart = apart(who, by)
                sums[told_apart] = sums.get(told_apart, Counts()) + counts
        return [UsageRow.of(who, counts, by) for who, counts in sorted(sums.items(), key=lambda each: each[0])]

    def close(self) -> None:
        """Flush and close. Raises LedgerError if what was noted is lost."""
        with closing(self._connection):
            self.flush()

    def _repair(self, error: sqlite3.DatabaseError) -> None:
        """A file that can be written again. Raises `error` if that would not help."""
        if is_damage(error):
            set_aside(self._path, self._clock, str(error))
            self.writer = new_writer(self._clock)  # a copy has more of the old one than the new file
        elif code_of(error) == sqlite3.SQLITE_READONLY_DBMOVED and not self._path.exists():
            log.warning("somebody deleted the ledger %s: it is written again", self._path)
            save_whole(self._connection, self._path)
        else:
            raise error
        connection = opened(self._path)
        self._connection.close()
        self._connection = connection


def new_writer(clock: Callable[[], float]) -> str:
    """A name that sorts by time."""
    return f"{stamp(clock)}-{secrets.token_hex(4)}"
