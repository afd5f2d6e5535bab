"""Copies of the ledgers of one service: every writer saves its own file, and takes up what the others have left.

    NAME-usage.WRITER.db        what a writer counted, and what it had read of others by then
    NAME-usage.db               of a Corral whose ledgers had no writers

So nobody overwrites anybody's: neither a job its successor nor a start the one before. A file that no longer changes is
taken over: renamed, so that whoever still writes it makes another, and deleted once its rows lie in our own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.access.ledger import Ledger, Snapshot, new_writer
from app.access.usage_tables import KEPT, LedgerError, NotOurs, Row, clear_damaged, rows_of, told

log = logging.getLogger("corral.ledger")
STILL_S = 150.0
"""A file that has not changed for so long is taken over. Who is alive saves more often, but may do so later, too."""
WRITER = r"\d{8}T\d{6}Z-[0-9a-f]{8}"

Version = tuple[int, int, int]


@dataclass(frozen=True)
class _Seen:
    """A file as it was read, and since when it is so: for ever, if it is not ours to touch."""

    version: Version
    since_s: float


class UsageCopies:
    """path: NAME-usage.db, whether it is there or not. local: seconds of a clock that nobody moves."""

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, local: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._clock, self._local = path, clock, local
        self._pattern = re.compile(rf"{re.escape(path.stem)}(\.{WRITER})?{re.escape(path.suffix)}")
        self._writer = ""
        self._seen: dict[Path, _Seen] = {}
        self._taken: list[Path] = []

    def news(self, writer: str) -> list[Row]:
        """What others than `writer` have saved since it asked last; all of it, if another asked last.

        What cannot be read is told and left alone, but for what is damaged, which is moved aside. Raises LedgerError.
        The disk may be slow: any thread may call it, one at a time.
        """
        if writer != self._writer:  # its ledger is a new one
            self.forget()
            self._writer = writer
        found: list[Row] = []
        with told(self._path.parent):
            others = list(self._others())
        self._seen = {path: seen for path, seen in self._seen.items() if path in others}
        for path in others:
            try:
                with told(path):
                    found += self._news_of(path)
            except LedgerError as error:
                log.error("usage that another start has left is not counted in: %s", error)
        return found

    def save(self, snapshot: Snapshot) -> None:
        """Into its writer's file. It has all of what was taken over, which is deleted. Raises LedgerError."""
        snapshot.save(self._file_of(snapshot.writer))
        with told(self._path.parent):
            while self._taken:
                self._taken[-1].unlink(missing_ok=True)
                self._taken.pop()

    def forget(self) -> None:
        """What was read may not be in the ledger: it is news again, and nothing of it is deleted."""
        self._seen.clear()
        self._taken.clear()

    def _file_of(self, writer: str) -> Path:
        return self._path.with_name(f"{self._path.stem}.{writer}{self._path.suffix}")

    def _others(self) -> Iterator[Path]:
        if not self._path.parent.is_dir():
            return
        own = self._file_of(self._writer)
        for path in sorted(self._path.parent.iterdir()):
            if self._pattern.fullmatch(path.name) and path != own:
                yield path

    def _news_of(self, path: Path) -> list[Row]:
        version, seen = _version(path), self._seen.get(path)
        if version is None or path in self._taken:
            return []
        if seen is not None and seen.version == version:
            return self._taken_over(path) if self._is_still(seen) else []
        self._seen.pop(path, None)
        try:
            rows = self._read(path)
        except NotOurs:
            self._seen[path] = _Seen(version, math.inf)
            raise
        self._seen[path] = _Seen(version, self._local())
        return rows

    def _is_still(self, seen: _Seen) -> bool:
        return self._local() - seen.since_s >= STILL_S

    def _taken_over(self, path: Path) -> list[Row]:
        """Under a name that nobody writes to it stays as it is read now, and is found again if we are killed."""
        taken = self._file_of(new_writer(self._clock))
        path.rename(taken)
        rows = self._read(taken)
        self._taken.append(taken)
        return rows

    def _read(self, path: Path) -> list[Row]:
        clear_damaged(path, self._clock, KEPT)
        return rows_of(path) if path.exists() else []


def take_up(ledger: Ledger, copies: UsageCopies) -> None:
    """Count what others have left. Raises LedgerError."""
    with _all_or_again(copies):
        ledger.merge(copies.news(ledger.writer))


def exchange(ledger: Ledger, copies: UsageCopies) -> None:
    """Take up what others have left, and leave what is known here. Raises LedgerError."""
    with _all_or_again(copies):
        ledger.merge(copies.news(ledger.writer))
        copies.save(ledger.snapshot())


async def exchange_aside(ledger: Ledger, copies: UsageCopies) -> None:
    """The same, and meanwhile the loop goes on."""
    with _all_or_again(copies):
        ledger.merge(await asyncio.to_thread(copies.news, ledger.writer))
        await asyncio.to_thread(copies.save, ledger.snapshot())


@contextmanager
def _all_or_again(copies: UsageCopies) -> Iterator[None]:
    """Where the exchange fails half way, all of it comes again with the next."""
    try:
        yield
    except BaseException:
        copies.forget()
        raise


def _version(path: Path) -> Version | None:
    """Something else after every change; None where there is no file.

    It is opened, for NFS answers a bare stat from its cache.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status.st_mtime_ns, status.st_size, status.st_ino
