"""Orders and answers of changes: who gets one in, who may read them, and what a service's end leaves."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from app.change.records import ChangeFolder, ChangeStatus, UnderWayError

STATUS = ChangeStatus("1", "changing", 1.0, 2.0, profile="mine.yaml", models={"a": {"how": "new", "state": "starting"}})


@pytest.fixture
def folder(tmp_path: Path) -> ChangeFolder:
    found = ChangeFolder(tmp_path / "change")
    found.open()
    return found


def submit(folder: ChangeFolder) -> str:
    return folder.submit({"models": {}}, "mine.yaml", 60, 5.0).id


def test_an_order_arrives_once_and_only_its_owner_reads_it(folder: ChangeFolder) -> None:
    asked = submit(folder)
    assert folder.order_file.stat().st_mode & 0o777 == 0o600
    assert folder.path.stat().st_mode & 0o777 == 0o700
    order = folder.take()
    assert order
    assert (order.id, order.profile, order.timeout_s, order.asked) == (asked, "mine.yaml", 60, 5.0)
    assert folder.take() is None
    assert [path.name for path in folder.path.iterdir()] == ["taken.json"]


def test_a_second_order_is_refused_before_and_while_the_first_is_done(folder: ChangeFolder) -> None:
    submit(folder)
    with pytest.raises(UnderWayError, match="a change is under way"):
        submit(folder)
    folder.take()
    folder.tell(STATUS)
    with pytest.raises(UnderWayError, match=r"mine.yaml.*changing.*a starting"):
        submit(folder)
    assert not folder.order_file.exists()
    folder.close()
    submit(folder)


def test_of_many_at_once_one_gets_through(folder: ChangeFolder) -> None:
    got: list[str] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        try:
            got.append(submit(folder))
        except UnderWayError:
            got.append("")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    (winner,) = [each for each in got if each]
    order = folder.take()
    assert order
    assert order.id == winner


def test_what_was_not_begun_can_be_taken_back(folder: ChangeFolder) -> None:
    submit(folder)
    assert folder.withdraw()
    assert folder.take() is None
    submit(folder)
    folder.take()
    assert not folder.withdraw()


def test_what_is_no_order_is_dropped(folder: ChangeFolder) -> None:
    folder.order_file.write_text('{"id": 1')
    assert folder.take() is None
    submit(folder)


def test_an_order_of_somebody_else_is_left_alone(folder: ChangeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(folder)
    mine = os.getuid()
    monkeypatch.setattr("app.change.records.os.getuid", lambda: mine + 1)
    assert folder.take() is None
    assert folder.order_file.exists()


def test_a_service_that_starts_anew_closes_what_its_predecessor_had_begun(folder: ChangeFolder) -> None:
    submit(folder)
    folder.take()
    folder.tell(STATUS)
    folder.open()
    status = folder.status()
    assert status
    assert (status.phase, status.message) == ("failed", "the service ended in the middle of it")
    assert " failed: the service" in status.sentence
    submit(folder)


def test_a_change_that_ended_is_told_as_it_ended(folder: ChangeFolder) -> None:
    folder.tell(ChangeStatus("1", "gone back", 1.0, 2.0, "b did not start", "mine.yaml"))
    folder.open()
    status = folder.status()
    assert status
    assert status.ended
    assert status.sentence.endswith(" has gone back: b did not start")
