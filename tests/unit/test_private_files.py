"""Private files: whole or as they were, their owner's alone, and no way through a link."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.private_files import locked, make_file, make_folder, replace_file, replacing, write_private
from tests.unit.access_fakes import beside, mode

Write = Callable[[Path, str], None]


def lasting(path: Path, text: str) -> None:
    replace_file(path, text.encode())


def under_lock(path: Path, text: str) -> None:
    replace_file(path, text.encode(), under_lock=True)


WAYS = pytest.mark.parametrize("write", [write_private, lasting, under_lock])


@pytest.fixture(params=[0, 0o077], ids=["open umask", "closed umask"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@WAYS
@pytest.mark.usefixtures("umask")
def test_a_file_is_replaced_and_its_owners_alone(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    path.chmod(0o644)
    write(path, "größer")
    assert path.read_bytes() == "größer".encode()
    assert mode(path) == 0o600
    assert beside(path) == ["file"]


@pytest.mark.usefixtures("umask")
def test_another_mode_is_exactly_that(tmp_path: Path) -> None:
    write_private(tmp_path / "run", "#!/bin/sh\n", 0o700)
    replace_file(tmp_path / "shown", b"for all", 0o644)
    assert (mode(tmp_path / "run"), mode(tmp_path / "shown")) == (0o700, 0o644)


@WAYS
def test_a_link_is_replaced_and_not_followed(tmp_path: Path, write: Write) -> None:
    mine, path = tmp_path / "mine", tmp_path / "link"
    mine.write_text("untouched")
    path.symlink_to(mine)
    write(path, "new")
    assert (mine.read_text(), path.read_text(), path.is_symlink()) == ("untouched", "new", False)


@WAYS
def test_a_link_laid_in_the_new_file_s_place_is_not_followed(tmp_path: Path, write: Write) -> None:
    mine = tmp_path / "mine"
    mine.write_text("untouched")
    (tmp_path / ".file.new").symlink_to(mine)
    write(tmp_path / "file", "new")
    assert (mine.read_text(), (tmp_path / "file").read_text()) == ("untouched", "new")


@pytest.mark.parametrize("under_lock", [False, True])
@pytest.mark.parametrize("lasting", [False, True])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, under_lock: bool, lasting: bool) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def fail() -> None:
        with replacing(path, under_lock=under_lock, lasting=lasting) as (descriptor, new):
            os.write(descriptor, b"half")
            assert mode(new) == 0o600
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert path.read_text() == "before"
    assert beside(path) == ["file"]


@pytest.mark.parametrize(("write", "synced"), [(write_private, 0), (lasting, 2), (under_lock, 2)])
def test_the_disk_is_waited_for_where_a_loss_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, synced: int
) -> None:
    """The file, and the folder that names it."""
    seen: list[int] = []
    monkeypatch.setattr("os.fsync", seen.append)
    write(tmp_path / "file", "x")
    assert len(seen) == synced


@WAYS
def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, write: Write) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "file", "x")


def test_folders_are_their_owners_alone_and_those_that_are_there_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o755)
    make_folder(tmp_path / "there" / "a" / "b")
    assert [mode(tmp_path / "there" / each) for each in (".", "a", "a/b")] == [0o755, 0o700, 0o700]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_folder(tmp_path / "file" / "a")


def test_a_file_that_is_made_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "file"
    make_file(path)
    assert (path.read_bytes(), mode(path)) == (b"", 0o600)
    path.write_text("x")
    path.chmod(0o644)
    make_file(path)
    assert (path.read_text(), mode(path)) == ("x", 0o600)


@pytest.mark.parametrize("through", ["lock", "file"])
def test_neither_a_lock_nor_a_new_file_goes_through_a_link(tmp_path: Path, through: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    act = make_file if through == "file" else lambda path: locked(path).__enter__()
    with pytest.raises(OSError, match="symbolic links"):
        act(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_only_one_has_the_lock(tmp_path: Path) -> None:
    path, order, waiting = tmp_path / "lock", [], threading.Event()

    def second() -> None:
        waiting.set()
        with locked(path):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(path):
        thread.start()
        waiting.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert mode(path) == 0o600
