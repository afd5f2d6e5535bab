"""The ledger: sums, days, and who may read it."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.access import usage_tables
from app.access.counts import FIELDS, Counts, Field, UsageRow
from app.access.ledger import Ledger
from app.access.usage_tables import LedgerError
from tests.unit.access_fakes import DAY_S, NOON, Clock, beside, total

TODAY = date(2026, 3, 1)


Note = tuple[int, str, str, str, Counts]
NOTES = st.lists(
    st.tuples(
        st.integers(0, 3), st.sampled_from("kl"), st.sampled_from(["", "g"]), st.sampled_from("mn"),
        st.builds(Counts, *[st.integers(0, 10**6)] * 6),
    ) | st.sampled_from(["flush", "reopen"]),
    max_size=40,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    steps=NOTES, by=st.lists(st.sampled_from(FIELDS), unique=True), key=st.sampled_from([None, "k", "nobody"]),
    since=st.none() | st.integers(0, 3), until=st.none() | st.integers(0, 3),
)  # fmt: skip
def test_sums_are_those_of_all_notes(
    steps: list[Note | str], by: list[Field], key: str | None, since: int | None, until: int | None
) -> None:
    clock, expected = Clock(NOON), defaultdict[tuple[object, ...], Counts](Counts)
    days = [date(2026, 3, 1 + number) for number in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(Path(folder) / "usage", clock=clock)
        for step in steps:
            if step == "reopen":
                ledger.close()
                ledger = Ledger.open(Path(folder) / "usage", clock=clock)
            elif isinstance(step, str):
                ledger.flush()
            else:
                day, whose, group, model, counts = step
                clock.now = NOON + day * DAY_S
                ledger.note(whose, group, model, counts)
                if key in (None, whose) and (since or 0) <= day <= (3 if until is None else until):
                    who = (days[day], whose, group, model)
                    apart = tuple(value if name in by else None for name, value in zip(FIELDS, who, strict=True))
                    expected[apart] += counts
        first, last = (None if number is None else days[number] for number in (since, until))
        rows = ledger.usage(first, last, key, by)
        ledger.close()
    assert {(row.day, row.key, row.group, row.model): row.counts for row in rows} == expected
    assert len(rows) == len(expected)
    assert rows == sorted(rows, key=lambda row: tuple(str(getattr(row, name) or "") for name in FIELDS))


def test_what_is_not_flushed_is_shown_and_not_in_the_file_yet(ledger: Ledger, ledger_path: Path) -> None:
    ledger.note("k", "g", "m", Counts(1, prompt_tokens=5))
    ledger.flush()
    ledger.note("k", "g", "m", Counts(2, prompt_tokens=7, bulk_items=1))
    assert ledger.usage() == [UsageRow(TODAY, "k", None, "m", Counts(3, prompt_tokens=12, bulk_items=1))]
    assert total(ledger_path) == Counts(1, prompt_tokens=5)
    ledger.close()
    assert total(ledger_path) == Counts(3, prompt_tokens=12, bulk_items=1)


def test_a_row_tells_what_was_asked_for_apart(ledger: Ledger) -> None:
    ledger.note("k", "g", "m", Counts(1, 2, 3, 4, 5, 6))
    counts = {"requests": 1, "refused": 2, "failed": 3, "prompt_tokens": 4, "completion_tokens": 5, "bulk_items": 6}
    assert ledger.usage()[0].to_json() == {"day": "2026-03-01", "key": "k", "model": "m"} | counts
    assert ledger.usage(by=["group"])[0].to_json() == {"group": "g"} | counts
    assert ledger.usage(by=[])[0].to_json() == counts


def test_a_flush_of_nothing_leaves_the_file_alone(ledger: Ledger, ledger_path: Path) -> None:
    os.utime(ledger_path, (1, 1))
    ledger.flush()
    assert ledger_path.stat().st_mtime == 1
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    assert ledger_path.stat().st_mtime != 1


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles"])
def test_days_are_those_of_utc(
    ledger_path: Path, ledger_clock: Clock, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        with closing(Ledger.open(ledger_path, clock=ledger_clock)) as ledger:
            midnight = datetime(2026, 3, 2, tzinfo=UTC).timestamp()
            for ledger_clock.now in (midnight - 0.001, midnight, midnight + DAY_S - 0.001, midnight + DAY_S):
                ledger.note("k", "g", "m", Counts(1))
            ledger.flush()
            days = {row.day: row.counts.requests for row in ledger.usage(by=["day"])}
            assert days == {date(2026, 3, 1): 1, date(2026, 3, 2): 2, date(2026, 3, 3): 1}
            assert [row.day for row in ledger.usage(since=date(2026, 3, 3))] == [date(2026, 3, 3)]
            assert [row.day for row in ledger.usage(until=date(2026, 3, 1))] == [date(2026, 3, 1)]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_only_the_owner_reads_it_and_its_copies(ledger_path: Path, tmp_path: Path) -> None:
    ledger_path.parent.mkdir()
    ledger_path.touch(mode=0o644)
    before = os.umask(0)
    try:
        with closing(Ledger.open(ledger_path)) as ledger:
            ledger.note("k", "g", "m", Counts(1))
            ledger.flush()
            ledger.snapshot().save(tmp_path / "new" / "copy")
    finally:
        os.umask(before)
    for made in (ledger_path, tmp_path / "new" / "copy"):
        assert made.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("lock", ["BEGIN EXCLUSIVE", "BEGIN; SELECT * FROM usage"])
def test_who_holds_the_file_for_long_costs_nothing(
    ledger_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    monkeypatch.setattr(usage_tables, "LOCKED_S", 0)
    with closing(Ledger.open(ledger_path)) as ledger:
        ledger.note("k", "g", "m", Counts(1))
        ledger.flush()
        with closing(sqlite3.connect(ledger_path, isolation_level=None)) as other:
            for statement in lock.split(";"):
                other.execute(statement).fetchone()
            ledger.flush()  # there is nothing to write
            ledger.note("k", "g", "m", Counts(1))
            with pytest.raises(LedgerError, match="locked"):
                ledger.flush()
            if "EXCLUSIVE" in lock:
                with pytest.raises(LedgerError, match=r"usage\.sqlite: database is locked"):
                    ledger.snapshot().save(ledger_path.with_name("copy"))
        ledger.flush()
    assert total(ledger_path) == Counts(2)
    assert beside(ledger_path) == ["usage.sqlite"]


def test_a_snapshot_is_saved_by_another_thread_and_is_of_its_time(ledger: Ledger, ledger_path: Path) -> None:
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    ledger.note("k", "g", "m", Counts(1))
    snapshot = ledger.snapshot()
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    thread = threading.Thread(target=snapshot.save, args=(ledger_path.with_name("copy"),))
    thread.start()
    thread.join()
    assert total(ledger_path.with_name("copy")) == Counts(2)
    assert total(ledger_path) == Counts(3)


def test_who_reads_the_copy_always_finds_a_whole_one(ledger: Ledger, ledger_path: Path) -> None:
    copy, done, seen = ledger_path.with_name("copy"), threading.Event(), []
    ledger.snapshot().save(copy)

    def look() -> None:
        while True:
            last = done.is_set()
            with closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro", uri=True)) as connection:
                seen.append(connection.execute("SELECT count(*), min(requests), max(requests) FROM usage").fetchone())
            if last:
                return

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(40):
        for key in range(200):
            ledger.note(f"key{key}", "g", "m", Counts(1))
        if number % 2:
            ledger.flush()
        ledger.snapshot().save(copy)
    done.set()
    reader.join()
    assert seen[-1] == (200, 40, 40)
    assert all(count in (0, 200) and least == most for count, least, most in seen)
    assert beside(ledger_path) == ["copy", "usage.sqlite"]


def test_a_copy_has_nothing_of_a_transaction_that_is_not_done(ledger: Ledger, ledger_path: Path) -> None:
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    with closing(sqlite3.connect(ledger_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE usage SET requests = 100")
        ledger.snapshot().save(ledger_path.with_name("copy"))
        other.execute("ROLLBACK")
    assert total(ledger_path.with_name("copy")) == Counts(1)
