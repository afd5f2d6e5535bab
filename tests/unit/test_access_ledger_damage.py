"""The ledger: nothing is counted twice or lost, whatever happens to its file."""

from __future__ import annotations

import logging
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from app.access.counts import Counts
from app.access.ledger import Ledger
from app.access.usage_tables import VERSION, LedgerError
from tests.unit.access_fakes import DAMAGES, ROOT, Clock, beside, damage, filled, total

FLUSH_AND_DIE = """
import os, sys
from pathlib import Path
from app.access.counts import Counts
from app.access.ledger import Ledger
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
def test_a_flush_that_is_killed_is_written_whole_or_not_at_all(ledger_path: Path, when: str, written: bool) -> None:
    filled(ledger_path, 3000)
    child = subprocess.run([sys.executable, "-c", FLUSH_AND_DIE, str(ledger_path), when], cwd=ROOT, check=False)
    assert child.returncode == -signal.SIGKILL
    assert ("usage.sqlite-journal" in beside(ledger_path)) == (not written)  # it was in the middle
    with closing(Ledger.open(ledger_path)) as ledger:
        rows = ledger.usage(by=["key"])
    assert [row.counts.requests for row in rows] == [2 if written else 1] * 3000
    assert beside(ledger_path) == ["usage.sqlite"]


def test_a_full_disk_loses_nothing_that_a_later_flush_can_write(ledger: Ledger, ledger_path: Path) -> None:
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
    assert total(ledger_path) == Counts(1)
    ledger.snapshot().save(ledger_path.with_name("copy"))  # another disk may have room
    assert total(ledger_path.with_name("copy")) == Counts(1001)
    connection.execute("PRAGMA max_page_count = 1000000")
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    ledger.flush()
    assert total(ledger_path) == Counts(1002)


WRITE_TOO_MUCH = """
import resource, sys
from pathlib import Path
from app.access.counts import Counts
from app.access.ledger import Ledger
from app.access.usage_tables import LedgerError
path, copy = Path(sys.argv[1]), Path(sys.argv[2])
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
ledger = Ledger.open(path)
ledger.note("k", "g", "m", Counts(1))
ledger.flush()
ledger.snapshot().save(copy)
for number in range(3000):
    ledger.note(f"key{number}", "g", "m", Counts(1))
limit(path.stat().st_size + 20000)
for write in (ledger.flush, ledger.flush, lambda: ledger.snapshot().save(copy)):
    try:
        write()
    except LedgerError as error:
        print(error)
limit(resource.RLIM_INFINITY)
ledger.note("k", "g", "m", Counts(1))
print(sum(row.counts.requests for row in ledger.usage()))
ledger.close()
"""


def test_a_file_that_must_not_grow_loses_nothing_and_the_copy_stays_as_it_was(ledger_path: Path) -> None:
    copy = ledger_path.with_name("copy")
    command = [sys.executable, "-c", WRITE_TOO_MUCH, str(ledger_path), str(copy)]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split(":")[0] for line in printed] == [str(ledger_path), str(ledger_path), str(copy), "3002"]
    assert total(ledger_path) == Counts(3002)
    assert total(copy) == Counts(1)
    assert beside(ledger_path) == ["copy", "usage.sqlite"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_is_moved_aside(
    ledger_path: Path, ledger_clock: Clock, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = damage(filled(ledger_path, 2000), how)
    with caplog.at_level(logging.WARNING), closing(Ledger.open(ledger_path, clock=ledger_clock)) as ledger:
        assert ledger.usage() == []
        ledger.note("k", "g", "m", Counts(1))
    assert total(ledger_path) == Counts(1)
    assert beside(ledger_path) == ["usage.sqlite", "usage.sqlite.damaged-20260301T120000Z"]
    assert ledger_path.with_name("usage.sqlite.damaged-20260301T120000Z").read_bytes() == content
    assert "was damaged" in caplog.text
    assert "usage.sqlite.damaged-20260301T120000Z" in caplog.text


def test_a_file_that_is_damaged_while_it_is_open_is_moved_aside(ledger: Ledger, ledger_path: Path) -> None:
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    damage(ledger_path, "other text")
    ledger.note("l", "g", "m", Counts(1))
    with pytest.raises(LedgerError, match="not a database"):
        ledger.usage()
    with pytest.raises(LedgerError, match="not a database"):
        ledger.snapshot().save(ledger_path.with_name("copy"))
    ledger.flush()
    assert [row.key for row in ledger.usage()] == ["l"]
    assert beside(ledger_path) == ["usage.sqlite", "usage.sqlite.damaged-20260301T120000Z"]
    ledger.note("l", "g", "m", Counts(1))
    ledger.flush()
    assert total(ledger_path) == Counts(2)


def test_a_file_that_somebody_deleted_is_written_again(ledger: Ledger, ledger_path: Path) -> None:
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    ledger_path.unlink()
    ledger.note("k", "g", "m", Counts(1))
    ledger.flush()
    assert total(ledger_path) == Counts(2)
    ledger_path.rename(ledger_path.with_name("moved"))
    filled(ledger_path, 1)  # and this one is somebody else's
    ledger.note("k", "g", "m", Counts(1))
    with pytest.raises(LedgerError, match="readonly"):
        ledger.flush()
    assert total(ledger_path) == Counts(1)


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
def test_what_is_not_ours_is_refused_and_left_alone(ledger_path: Path, other: object) -> None:
    assert callable(other)
    message = other(filled(ledger_path, 3))
    content = ledger_path.read_bytes()
    with pytest.raises(LedgerError, match=rf"usage\.sqlite: .*{message}"):
        Ledger.open(ledger_path)
    assert beside(ledger_path) == ["usage.sqlite"]
    assert ledger_path.read_bytes() == content


def test_a_place_that_holds_no_file_is_told(ledger_path: Path, ledger: Ledger) -> None:
    for place in (ledger_path / "below", ledger_path.parent):
        with pytest.raises(LedgerError, match=str(ledger_path.parent)):
            Ledger.open(place)
        with pytest.raises(LedgerError, match=str(ledger_path.parent)):
            ledger.snapshot().save(place)
    assert beside(ledger_path) == ["usage.sqlite"]
