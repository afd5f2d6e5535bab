"""Copies of ledgers: no count is lost or doubled, whoever starts, serves, ends or dies beside or after whom."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.access.counts import COLUMNS, Counts
from app.access.ledger import Ledger
from app.access.usage_copies import STILL_S, UsageCopies, exchange, exchange_aside, take_up
from app.access.usage_tables import MARK, VERSION, LedgerError
from tests.unit.access_fakes import DAMAGES, Clock, beside, damage, mode, total


@dataclass
class Start:
    """One start of a service: a ledger on its own disk, and the copies on the disk that all starts share."""

    live: Path
    shared: Path
    clock: Clock = field(default_factory=Clock)
    local: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.ledger = Ledger.open(self.live, self.clock)
        self.copies = UsageCopies(self.shared, self.clock, self.local)
        take_up(self.ledger, self.copies)

    def used(self, requests: int) -> None:
        self.ledger.note("k", "g", "m", Counts(requests))
        self.ledger.flush()

    def exchange(self) -> None:
        exchange(self.ledger, self.copies)

    def end(self) -> None:
        self.ledger.flush()
        self.exchange()
        self.ledger.close()

    def knows(self) -> int:
        return sum(row.counts.requests for row in self.ledger.usage())


@dataclass
class Shelf:
    """Where starts come from, one after the other or at the same time."""

    folder: Path
    local: Clock = field(default_factory=Clock)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def shared(self) -> Path:
        return self.folder / "shared" / "a-usage.db"

    def start(self) -> Start:
        return Start(self.folder / f"disk-{next(self.numbers)}" / "usage.db", self.shared, local=self.local)

    def files(self) -> list[Path]:
        return sorted(self.shared.parent.glob("*.db"))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_the_next_start_goes_on_from_the_last(shelf: Shelf) -> None:
    first = shelf.start()
    first.used(1)
    first.ledger.note("k", "g", "m", Counts(2))  # not flushed yet, but in the copy
    first.exchange()
    second = shelf.start()
    second.used(4)
    assert (first.knows(), second.knows()) == (3, 7)
    first.ledger.close()
    assert total(first.live) == Counts(3)  # the copy took nothing away
    second.end()
    assert shelf.start().knows() == 7
    assert [mode(each) for each in shelf.files()] == [0o600] * 2
    assert mode(shelf.shared.parent) == 0o700


def test_what_is_read_twice_counts_once(shelf: Shelf) -> None:
    first = shelf.start()
    first.used(3)
    first.end()
    second = shelf.start()
    for _ in range(3):
        second.exchange()
        second.copies.forget()
    assert second.knows() == 3
    assert total(shelf.files()[-1]) == total(shelf.files()[0]) == Counts(3)


@pytest.mark.parametrize("first_to_end", ["job", "successor"])
def test_a_job_and_its_successor_lose_nothing_of_each_other(shelf: Shelf, first_to_end: str) -> None:
    job = shelf.start()
    job.used(1)
    job.exchange()
    successor = shelf.start()
    assert successor.knows() == 1
    job.used(2)
    successor.used(4)
    job.exchange()
    successor.exchange()
    job.exchange()
    assert (job.knows(), successor.knows()) == (7, 7)  # both tell all of it
    job.used(8)
    successor.used(16)
    for each in (job, successor) if first_to_end == "job" else (successor, job):
        each.end()
    assert shelf.start().knows() == 31


def test_a_file_that_is_still_is_taken_over(shelf: Shelf) -> None:
    for requests in (1, 2, 4):
        start = shelf.start()
        start.used(requests)
        start.end()
    last = shelf.start()
    last.exchange()
    assert len(shelf.files()) == 4
    shelf.local.now += STILL_S
    last.exchange()
    (left,) = shelf.files()
    assert last.ledger.writer in left.name
    assert total(left) == Counts(7)
    last.ledger.close()


def test_whoever_is_alive_after_all_writes_again(shelf: Shelf) -> None:
    quiet, other = shelf.start(), shelf.start()
    quiet.used(1)
    quiet.exchange()
    other.exchange()
    shelf.local.now += STILL_S
    other.exchange()
    assert len(shelf.files()) == 1
    quiet.used(2)
    other.used(4)
    quiet.end()
    assert len(shelf.files()) == 2
    other.end()
    assert shelf.start().knows() == 7


def test_who_dies_in_the_middle_of_taking_over_loses_nothing(shelf: Shelf) -> None:
    first = shelf.start()
    first.used(5)
    first.end()
    dying = shelf.start()
    shelf.local.now += STILL_S
    assert dying.copies.news(dying.ledger.writer)
    assert first.ledger.writer not in str(shelf.files())
    assert shelf.start().knows() == 5


def test_what_could_not_be_merged_is_not_deleted_and_comes_again(shelf: Shelf) -> None:
    first = shelf.start()
    first.used(5)
    first.end()
    second = Start(shelf.folder / "disk" / "usage.db", shelf.folder / "elsewhere" / "usage.db", local=shelf.local)
    second.copies = UsageCopies(shelf.shared, second.clock, shelf.local)
    second.copies.news(second.ledger.writer)
    shelf.local.now += STILL_S
    second.ledger._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(LedgerError, match="readonly"):
        second.exchange()
    second.ledger._connection.execute("PRAGMA query_only = OFF")
    assert (second.knows(), shelf.start().knows()) == (0, 5)
    second.exchange()
    assert second.knows() == 5
    assert total(shelf.files()[-1]) == Counts(5)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_copy_is_moved_aside_and_the_others_count(shelf: Shelf, how: str) -> None:
    first, second = shelf.start(), shelf.start()
    for number in range(2000):
        first.ledger.note(f"key{number}", "g", "m", Counts(1))
    second.used(3)
    second.exchange()
    first.end()
    (place,) = [each for each in shelf.files() if first.ledger.writer in each.name]
    damage(place, how)
    Path(f"{place}-journal").write_text("of one that was killed")
    assert shelf.start().knows() == 3
    aside = [name for name in beside(place) if ".damaged-20260921T" in name]
    assert [name.startswith(place.name) for name in aside] == [True, True]
    assert sum(name.endswith("-journal") for name in aside) == 1


def test_who_has_lost_its_own_file_goes_on_from_its_copy(shelf: Shelf) -> None:
    start = shelf.start()
    start.used(3)
    start.exchange()
    damage(start.live, "other text")
    start.used(4)  # under another name, or the copy would be replaced by less
    assert start.knows() == 4
    start.exchange()
    assert start.knows() == 7
    start.end()
    again = Start(start.live, shelf.shared)
    assert again.knows() == 7


def newer(path: Path) -> None:
    Ledger.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE usage (day TEXT)")


@pytest.mark.parametrize(("make", "why"), [(newer, "a newer Corral wrote it"), (foreign, "no ledger of Corral")])
def test_what_is_not_ours_is_left_alone_and_told_once(
    shelf: Shelf, caplog: pytest.LogCaptureFixture, make: object, why: str
) -> None:
    shelf.shared.parent.mkdir()
    assert callable(make)
    make(shelf.shared)
    before = shelf.shared.read_bytes()
    with caplog.at_level(logging.ERROR):
        start = shelf.start()
        start.used(1)
        for _ in range(3):
            start.exchange()
            shelf.local.now += STILL_S
    assert caplog.text.count(why) == 1
    assert shelf.shared.read_bytes() == before
    assert len(shelf.files()) == 2


def test_a_file_from_before_there_were_writers_is_taken_up(shelf: Shelf) -> None:
    shelf.shared.parent.mkdir()
    with closing(sqlite3.connect(shelf.shared)) as old:
        old.execute(
            f'CREATE TABLE usage (day TEXT, key TEXT, "group" TEXT, model TEXT, {" INTEGER, ".join(COLUMNS)} INTEGER, '
            'PRIMARY KEY (day, key, "group", model)) WITHOUT ROWID'
        )
        old.execute("INSERT INTO usage VALUES ('2026-09-20', 'k', 'g', 'm', 5, 1, 0, 10, 20, 0)")
        old.execute(f"PRAGMA application_id = {MARK}")
        old.execute("PRAGMA user_version = 1")
        old.commit()
    start = shelf.start()
    start.used(1)
    shelf.local.now += STILL_S
    start.exchange()
    assert [row.counts for row in start.ledger.usage(by=["key"])] == [Counts(6, 1, 0, 10, 20, 0)]
    (left,) = shelf.files()
    assert total(left) == Counts(6, 1, 0, 10, 20, 0)


@pytest.mark.parametrize("name", ["a-usage.db", "a-usage.20260921T141320Z-0123abcd.db"])
def test_an_empty_file_is_nothing(shelf: Shelf, name: str) -> None:
    shelf.shared.parent.mkdir()
    shelf.shared.with_name(name).touch()
    start = shelf.start()
    start.used(1)
    start.end()
    assert shelf.start().knows() == 1


def test_files_of_other_services_are_not_touched(shelf: Shelf) -> None:
    names = ["b-usage.db", "a-usage-usage.db", "a-usage.x-usage.db", "a-usage.db.damaged-20260921T141320Z", "keys.json"]
    shelf.shared.parent.mkdir()
    for name in names:
        shelf.shared.with_name(name).write_text("not ours")
    start = shelf.start()
    start.exchange()
    shelf.local.now += STILL_S
    start.exchange()
    assert set(names) < set(beside(shelf.shared))
    assert len(beside(shelf.shared)) == len(names) + 1


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["use", "use", "exchange", "wait", "end", "kill", "half"])),
    max_size=40,
)


@settings(max_examples=20, deadline=None)
@given(STEPS)
def test_in_whatever_order_nothing_is_lost_or_doubled(steps: list[tuple[int, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder))
        starts, used = [shelf.start() for _ in range(3)], 0
        for number, (which, step) in enumerate(steps):
            start = starts[which]
            if step == "use":
                start.used(1 << number % 20)
                used += 1 << number % 20
            elif step == "exchange":
                start.exchange()
            elif step == "wait":
                shelf.local.now += STILL_S
            elif step == "end":
                start.end()
                starts[which] = shelf.start()
            else:
                if step == "half":
                    take_up(start.ledger, start.copies)
                start.ledger.close()
                starts[which] = Start(start.live, shelf.shared, local=shelf.local)
        for start in (*starts, *starts):
            start.exchange()
        assert [start.knows() for start in starts] == [used] * 3
        for start in starts:
            start.end()
        assert shelf.start().knows() == used


def test_what_was_taken_over_outlives_the_loss_of_the_ledger(shelf: Shelf) -> None:
    first = shelf.start()
    first.used(5)
    first.end()
    second = shelf.start()
    shelf.local.now += STILL_S
    take_up(second.ledger, second.copies)  # it is taken over, but not saved yet
    damage(second.live, "other text")
    with pytest.raises(LedgerError, match="not a database"):
        second.exchange()
    second.used(2)
    second.exchange()
    assert second.knows() == 7
    shelf.local.now += STILL_S
    second.exchange()
    (left,) = shelf.files()
    assert total(left) == Counts(7)


async def test_the_loop_goes_on_while_copies_are_exchanged(shelf: Shelf) -> None:
    first = shelf.start()
    first.used(5)
    first.end()
    second = shelf.start()
    second.copies.forget()
    exchanging = asyncio.create_task(exchange_aside(second.ledger, second.copies))
    turns = 0
    while not exchanging.done():
        await asyncio.sleep(0)
        turns += 1
    await exchanging
    assert turns > 2
    assert second.knows() == 5
    assert total(shelf.files()[-1]) == total(shelf.files()[0]) == Counts(5)
