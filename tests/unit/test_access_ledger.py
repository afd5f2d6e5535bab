"""The ledger: nothing is counted twice or lost, whatever happens to its file."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.access import ledger as ledger_module
from app.access.ledger import FIELDS, VERSION, Counts, Field, Ledger, LedgerError, UsageRow

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
DAY_S = 86400
TODAY = date(2026, 3, 1)


@dataclass
class Clock:
    now: float = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger" / "usage.sqlite"


@pytest.fixture
def ledger(path: Path, clock: Clock) -> Iterator[Ledger]:
    found = Ledger.open(path, clock=clock)
    yield found
    with suppress(LedgerError):
        found.close()


def total(path: Path) -> Counts:
    """All that is in a file."""
    with closing(Ledger.open(path)) as found:
        return sum((row.counts for row in found.usage()), Counts())


def filled(path: Path, keys: int, counts: Counts = Counts(1)) -> Path:  # noqa: B008 (frozen)
    with closing(Ledger.open(path, clock=Clock())) as found:
        for number in range(keys):
            found.note(f"key{number}", "g", "m", counts)
    return path


def beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


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
    clock, expected = Clock(), defaultdict[tuple[object, ...], Counts](Counts)
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


def test_what_is_not_flushed_is_shown_and_not_in_the_file_yet(ledger: Ledger, path: Path) -> None:
    ledger.note("k", "g", "m", Counts(1, prompt_tokens=5))
    ledger.flush()
    ledger.note("k", "g", "m", Counts(2, prompt_tokens=7, bulk_items=1))
    assert ledger.usage() == [UsageRow(TODAY, "k", None, "m", Counts(3, prompt_tokens=12, bulk_items=1))]
    assert total(path) == Counts(1, prompt_tokens=5)
    ledger.close()
    assert total(path) == Counts(3, prompt_tokens=12, bulk_items=1)


def test_a_row_tells_what_was_asked_for_apart(ledger: Ledger) -> None:
    ledger.note("k", "g", "m", Counts(1, 2, 3, 4, 5, 6))
    counts = {"requests": 1, "refused": 2, "failed": 3, "prompt_tokens": 4, "completion_tokens": 5, "bulk_items": 6}
    assert ledger.usage()[0].to_json() == {"day": "2026-03-01", "key": "k", "model": "m"} | counts
    assert ledger.usage(by=["group"])[0].to_json() == {"group": "g"} | counts
    assert ledger.usage(by=[])[0].to_json() == counts


def test_a_flush_of_nothing_leaves_the_file_alone(ledger: Ledger, path: Path) -> None:
    os.utime(path, (1, 1))
    ledger.flush()
    assert path.stat().st_mtime == 1
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    assert path.stat().st_mtime != 1


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles"])
def test_days_are_those_of_utc(path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        with closing(Ledger.open(path, clock=clock)) as ledger:
            midnight = datetime(2026, 3, 2, tzinfo=UTC).timestamp()
            for clock.now in (midnight - 0.001, midnight, midnight + DAY_S - 0.001, midnight + DAY_S):
                ledger.note("k", "g", "m", Counts(1))
            ledger.flush()
            days = {row.day: row.counts.requests for row in ledger.usage(by=["day"])}
            assert days == {date(2026, 3, 1): 1, date(2026, 3, 2): 2, date(2026, 3, 3): 1}
            assert [row.day for row in ledger.usage(since=date(2026, 3, 3))] == [date(2026, 3, 3)]
            assert [row.day for row in ledger.usage(until=date(2026, 3, 1))] == [date(2026, 3, 1)]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_only_the_owner_reads_it_and_its_copies(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.touch(mode=0o644)
    before = os.umask(0)
    try:
        with closing(Ledger.open(path)) as ledger:
            ledger.note("k", "g", "m", Counts(1))
            ledger.flush()
            ledger.copy_to(tmp_path / "new" / "copy")
        with closing(Ledger.open(tmp_path / "taken up", tmp_path / "new" / "copy")):
            pass
    finally:
        os.umask(before)
    for made in (path, tmp_path / "new" / "copy", tmp_path / "taken up"):
        assert made.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


FLUSH_AND_DIE = """
import os, sys
from pathlib import Path
from app.access.ledger import Counts, Ledger
ledger, steps, when = Ledger.open(Path(sys.argv[1])), 0, sys.argv[2]
def die(done=None):
    global steps
    steps += 1
    if done == when or str(steps) == when:
        os.kill(os.getpid(), 9)
for number in range(3000):
    ledger.note(f"key{number}", "g", "m", Counts(1))
ledger._connection.execute("PRAGMA cache_size = 1")  # so that much is in the file before the end
if when.isdigit():
    ledger._connection.set_progress_handler(die, 1000)
else:
    ledger._connection.set_trace_callback(die)
ledger.flush()
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(
    ("when", "written"), [("1", False), ("10", False), ("30", False), ("COMMIT", False), ("never", True)]
)
def test_a_flush_that_is_killed_is_written_whole_or_not_at_all(path: Path, when: str, written: bool) -> None:
    filled(path, 3000)
    child = subprocess.run([sys.executable, "-c", FLUSH_AND_DIE, str(path), when], cwd=ROOT, check=False)
    assert child.returncode == -signal.SIGKILL
    assert ("usage.sqlite-journal" in beside(path)) == (not written)  # it was in the middle
    with closing(Ledger.open(path)) as ledger:
        rows = ledger.usage(by=["key"])
    assert [row.counts.requests for row in rows] == [2 if written else 1] * 3000
    assert beside(path) == ["usage.sqlite"]


def test_a_full_disk_loses_nothing_that_a_later_flush_can_write(ledger: Ledger, path: Path) -> None:
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    connection = ledger._connection
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
    for number in range(1000):
        ledger.note(f"key{number}", "g", "m", Counts(1))
    for _ in range(2):
        with pytest.raises(LedgerError, match=r"usage\.sqlite: database or disk is full"):
            ledger.flush()
        assert sum(row.counts.requests for row in ledger.usage()) == 1001
    assert total(path) == Counts(1)
    ledger.copy_to(path.with_name("copy"))  # another disk may have room
    assert total(path.with_name("copy")) == Counts(1001)
    connection.execute("PRAGMA max_page_count = 1000000")
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    ledger.flush()
    assert total(path) == Counts(1002)


WRITE_TOO_MUCH = """
import resource, sys
from pathlib import Path
from app.access.ledger import Counts, Ledger, LedgerError
path, copy = Path(sys.argv[1]), Path(sys.argv[2])
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
ledger = Ledger.open(path)
ledger.note("k", "g", "m", Counts(1))
ledger.flush()
ledger.copy_to(copy)
for number in range(3000):
    ledger.note(f"key{number}", "g", "m", Counts(1))
limit(path.stat().st_size + 20000)
for write in (ledger.flush, ledger.flush, lambda: ledger.copy_to(copy)):
    try:
        write()
    except LedgerError as error:
        print(error)
limit(resource.RLIM_INFINITY)
ledger.note("k", "g", "m", Counts(1))
print(sum(row.counts.requests for row in ledger.usage()))
ledger.close()
"""


def test_a_file_that_must_not_grow_loses_nothing_and_the_copy_stays_as_it_was(path: Path) -> None:
    copy = path.with_name("copy")
    command = [sys.executable, "-c", WRITE_TOO_MUCH, str(path), str(copy)]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split(":")[0] for line in printed] == [str(path), str(path), str(copy), "3002"]
    assert total(path) == Counts(3002)
    assert total(copy) == Counts(1)
    assert beside(path) == ["copy", "usage.sqlite"]


def overwrite(path: Path, begin: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(content)


def damage(path: Path, how: str) -> bytes:
    """What is in the file then."""
    if how == "cut off":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "other text":
        path.write_text("not a database at all\n" * 1000)
    else:
        begin = 0 if how == "no header" else path.stat().st_size // 2
        overwrite(path, begin, bytes(8192))
    return path.read_bytes()


DAMAGES = pytest.mark.parametrize("how", ["cut off", "other text", "no header", "a hole"])


@DAMAGES
def test_a_damaged_file_is_moved_aside(path: Path, clock: Clock, how: str, caplog: pytest.LogCaptureFixture) -> None:
    content = damage(filled(path, 2000), how)
    with caplog.at_level(logging.WARNING), closing(Ledger.open(path, clock=clock)) as ledger:
        assert ledger.usage() == []
        ledger.note("k", "g", "m", Counts(1))
    assert total(path) == Counts(1)
    assert beside(path) == ["usage.sqlite", "usage.sqlite.damaged-20260301T120000Z"]
    assert path.with_name("usage.sqlite.damaged-20260301T120000Z").read_bytes() == content
    assert "was damaged" in caplog.text
    assert "usage.sqlite.damaged-20260301T120000Z" in caplog.text


@DAMAGES
def test_a_damaged_copy_is_moved_aside(path: Path, clock: Clock, how: str, tmp_path: Path) -> None:
    seed = filled(tmp_path / "shared" / "copy", 2000)
    damage(seed, how)
    with closing(Ledger.open(path, seed, clock)) as ledger:
        assert ledger.usage() == []
    assert beside(seed) == ["copy.damaged-20260301T120000Z"]
    assert beside(path) == ["usage.sqlite"]


def test_a_copy_takes_the_place_of_a_damaged_file(path: Path, clock: Clock, tmp_path: Path) -> None:
    damage(filled(path, 5), "other text")
    with closing(Ledger.open(path, filled(tmp_path / "copy", 3), clock)) as ledger:
        assert len(ledger.usage()) == 3


def test_a_file_that_is_damaged_while_it_is_open_is_moved_aside(ledger: Ledger, path: Path) -> None:
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    damage(path, "other text")
    ledger.note("l", "g", "m", Counts(1))
    with pytest.raises(LedgerError, match="not a database"):
        ledger.usage()
    with pytest.raises(LedgerError, match="not a database"):
        ledger.copy_to(path.with_name("copy"))
    ledger.flush()
    assert [row.key for row in ledger.usage()] == ["l"]
    assert beside(path) == ["usage.sqlite", "usage.sqlite.damaged-20260301T120000Z"]
    ledger.note("l", "g", "m", Counts(1))
    ledger.flush()
    assert total(path) == Counts(2)


def test_the_journal_of_a_damaged_file_goes_with_it(path: Path, clock: Clock, tmp_path: Path) -> None:
    seed = filled(tmp_path / "shared" / "copy", 5)
    damage(seed, "other text")
    Path(f"{seed}-journal").write_text("of the one that was killed")
    with closing(Ledger.open(path, seed, clock)) as ledger:
        assert ledger.usage() == []
    assert beside(seed) == ["copy.damaged-20260301T120000Z", "copy.damaged-20260301T120000Z-journal"]


def test_a_file_that_somebody_deleted_is_written_again(ledger: Ledger, path: Path) -> None:
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    path.unlink()
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    assert total(path) == Counts(2)
    path.rename(path.with_name("moved"))
    filled(path, 1)  # and this one is somebody else's
    ledger.note("k", "g", "m", Counts(1))
    with pytest.raises(LedgerError, match="readonly"):
        ledger.flush()
    assert total(path) == Counts(1)


def newer(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    return rf"a newer Corral wrote it \(version {VERSION + 1}, this one knows {VERSION}\): update Corral"


def foreign(path: Path) -> str:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE usage (day TEXT)")
    return "no ledger of Corral"


@pytest.mark.parametrize("other", [newer, foreign])
def test_what_is_not_ours_is_refused_and_left_alone(path: Path, tmp_path: Path, other: object) -> None:
    assert callable(other)
    message = other(filled(path, 3))
    content = path.read_bytes()
    with pytest.raises(LedgerError, match=rf"usage\.sqlite: .*{message}"):
        Ledger.open(path)
    live = tmp_path / "live" / "usage"
    with pytest.raises(LedgerError, match=rf"usage\.sqlite: .*{message}"):
        Ledger.open(live, seed=path)
    assert beside(live) == []
    assert beside(path) == ["usage.sqlite"]
    assert path.read_bytes() == content


def test_a_place_that_holds_no_file_is_told(path: Path, ledger: Ledger) -> None:
    for place in (path / "below", path.parent):
        with pytest.raises(LedgerError, match=str(path.parent)):
            Ledger.open(place)
        with pytest.raises(LedgerError, match=str(path.parent)):
            ledger.copy_to(place)
    assert beside(path) == ["usage.sqlite"]


def test_the_next_job_goes_on_from_the_copy(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    copy, second = tmp_path / "shared" / "copy", tmp_path / "second"
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    ledger.note("k", "g", "m", Counts(2))
    ledger.copy_to(copy)
    with closing(Ledger.open(second, copy)) as following:
        following.note("k", "g", "m", Counts(4))
    assert total(second) == Counts(7)
    with closing(Ledger.open(second, copy)) as again:  # what is there is newer than the copy
        assert again.usage(by=[])[0].counts == Counts(7)
    assert total(copy) == Counts(3)
    ledger.flush()
    assert total(path) == Counts(3)  # the copy took nothing away
    assert beside(copy) == ["copy"]


@pytest.mark.parametrize("empty", [False, True])
def test_without_a_copy_it_begins_empty(path: Path, tmp_path: Path, empty: bool) -> None:
    if empty:
        (tmp_path / "copy").touch()
    with closing(Ledger.open(path, tmp_path / "copy")) as ledger:
        assert ledger.usage() == []
        ledger.note("k", "g", "m", Counts(1))
    assert total(path) == Counts(1)


def test_a_snapshot_is_saved_by_another_thread_and_is_of_its_time(ledger: Ledger, path: Path) -> None:
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    ledger.note("k", "g", "m", Counts(1))
    snapshot = ledger.snapshot()
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    thread = threading.Thread(target=snapshot.save, args=(path.with_name("copy"),))
    thread.start()
    thread.join()
    assert total(path.with_name("copy")) == Counts(2)
    assert total(path) == Counts(3)


def test_who_reads_the_copy_always_finds_a_whole_one(ledger: Ledger, path: Path) -> None:
    copy, done, seen = path.with_name("copy"), threading.Event(), []
    ledger.copy_to(copy)

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
        ledger.copy_to(copy)
    done.set()
    reader.join()
    assert seen[-1] == (200, 40, 40)
    assert all(count in (0, 200) and least == most for count, least, most in seen)
    assert beside(path) == ["copy", "usage.sqlite"]


def test_a_copy_has_nothing_of_a_transaction_that_is_not_done(ledger: Ledger, path: Path) -> None:
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE usage SET requests = 100")
        ledger.copy_to(path.with_name("copy"))
        other.execute("ROLLBACK")
    assert total(path.with_name("copy")) == Counts(1)


@pytest.mark.parametrize("lock", ["BEGIN EXCLUSIVE", "BEGIN; SELECT * FROM usage"])
def test_who_holds_the_file_for_long_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, lock: str) -> None:
    monkeypatch.setattr(ledger_module, "LOCKED_S", 0)
    with closing(Ledger.open(path)) as ledger:
        ledger.note("k", "g", "m", Counts(1))
        ledger.flush()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            for statement in lock.split(";"):
                other.execute(statement).fetchone()
            ledger.flush()  # there is nothing to write
            ledger.note("k", "g", "m", Counts(1))
            with pytest.raises(LedgerError, match="locked"):
                ledger.flush()
            if "EXCLUSIVE" in lock:
                with pytest.raises(LedgerError, match=r"usage\.sqlite: database is locked"):
                    ledger.copy_to(path.with_name("copy"))
        ledger.flush()
    assert total(path) == Counts(2)
    assert beside(path) == ["usage.sqlite"]
