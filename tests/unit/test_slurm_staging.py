"""Copies of weights to a node's own disk: whole or not at all, checked, once for each node."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from pathlib import Path

import pytest

from slurm.staging import (
    COPIED,
    MANIFEST,
    Manifest,
    NoRoom,
    StagedFile,
    StagingError,
    copy,
    disk_errors,
    locked,
    read_manifest,
    write_manifest,
)

FILES = {"config.json": b"{}", "a.safetensors": b"a" * 300_000, "deep/b.json": b"b", "empty": b""}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of weights without a manifest."""
    folder = tmp_path / "shared" / "llama"
    for path, data in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


@pytest.fixture
def staged(source: Path) -> Path:
    """The same as `corral fetch` leaves it."""
    files = [
        StagedFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in FILES.items()
    ]
    write_manifest(source, Manifest(source="meta/llama", revision="1" * 40, files=tuple(files)))
    return source


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "local" / "llama"


def lies_in(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in (MANIFEST, COPIED)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def nothing_is_left(target: Path) -> bool:
    """Neither a half target nor what it was made from."""
    return {path.name for path in target.parent.iterdir()} <= {f".{target.name}.lock"}


@pytest.mark.parametrize("kind", ["source", "staged"])
def test_a_folder_is_copied_once(kind: str, target: Path, request: pytest.FixtureRequest) -> None:
    source: Path = request.getfixturevalue(kind)
    told: list[tuple[int, int]] = []
    assert copy(source, target, lambda done, total: told.append((done, total)))
    assert lies_in(target) == FILES
    assert read_manifest(target) == read_manifest(source)
    size = sum(map(len, FILES.values()))
    assert (told[0], told[-1]) == ((0, size), (size, size))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    written = (target / "a.safetensors").stat().st_ino
    told.clear()
    assert not copy(source, target, lambda done, total: told.append((done, total)))
    assert told == [(0, size), (size, size)]
    assert (target / "a.safetensors").stat().st_ino == written


def test_only_what_the_manifest_names_is_copied(staged: Path, target: Path) -> None:
    (staged / "notes.txt").write_text("mine")
    copy(staged, target)
    assert lies_in(target) == FILES


def test_hidden_files_stay_behind_and_links_are_followed(source: Path, target: Path) -> None:
    (source / ".cache").mkdir()
    (source / ".cache" / "x").write_text("")
    (source / "a.safetensors").rename(source.parent / "blob")
    (source / "a.safetensors").symlink_to(source.parent / "blob")
    copy(source, target)
    assert lies_in(target) == FILES
    assert not (target / "a.safetensors").is_symlink()


def test_other_weights_of_the_same_size_are_copied_again(source: Path, target: Path) -> None:
    """A model that was trained on has the sizes that it had."""
    copy(source, target)
    (source / "a.safetensors").write_bytes(b"n" * 300_000)
    os.utime(source / "a.safetensors", (2_000_000_000, 2_000_000_000))
    assert copy(source, target)
    assert (target / "a.safetensors").read_bytes() == b"n" * 300_000


def test_another_commit_is_copied_again(staged: Path, target: Path) -> None:
    copy(staged, target)
    manifest = read_manifest(staged)
    assert manifest
    write_manifest(staged, manifest.model_copy(update={"revision": "2" * 40}))
    assert copy(staged, target)
    assert read_manifest(target) == read_manifest(staged)


def test_a_copy_that_lost_a_file_is_made_again(staged: Path, target: Path) -> None:
    copy(staged, target)
    (target / "a.safetensors").write_bytes(b"a")
    assert copy(staged, target)
    assert lies_in(target) == FILES


def test_wrong_bytes_leave_nothing(staged: Path, target: Path) -> None:
    (staged / "a.safetensors").write_bytes(b"x" * 300_000)
    with pytest.raises(StagingError, match=r"a\.safetensors is not what was fetched; run `corral fetch --verify`"):
        copy(staged, target)
    assert nothing_is_left(target)


def test_a_source_with_a_hole_is_told(staged: Path, target: Path) -> None:
    (staged / "a.safetensors").unlink()
    with pytest.raises(StagingError, match="missing or cut short; run `corral fetch` again"):
        copy(staged, target)
    assert nothing_is_left(target)


def test_no_weights_at_all_are_told(tmp_path: Path, target: Path) -> None:
    with pytest.raises(StagingError, match="there are no weights"):
        copy(tmp_path / "nowhere", target)


def test_an_interrupted_copy_leaves_nothing_and_can_be_repeated(staged: Path, target: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(staged, target, interrupt)
    assert nothing_is_left(target)
    assert copy(staged, target)
    assert lies_in(target) == FILES


def test_what_a_killed_copy_left_is_cleared(staged: Path, target: Path) -> None:
    left = target.with_name(".llama.copying")
    left.mkdir(parents=True)
    (left / "old.safetensors").write_text("half")
    copy(staged, target)
    assert lies_in(target) == FILES
    assert not left.exists()


def test_a_folder_that_is_no_copy_is_not_replaced(staged: Path, target: Path) -> None:
    target.mkdir(parents=True)
    (target / "thesis.tex").write_text("years of work")
    with pytest.raises(StagingError, match="is no copy of weights; remove it, or choose another folder"):
        copy(staged, target)
    assert lies_in(target) == {"thesis.tex": b"years of work"}


def test_an_empty_folder_is_filled(staged: Path, target: Path) -> None:
    target.mkdir(parents=True)
    assert copy(staged, target)
    assert lies_in(target) == FILES


def test_too_little_room_says_how_much_and_where(staged: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(staged)._replace(free=1 << 20)
    manifest = read_manifest(staged)
    assert manifest
    big = StagedFile(path="big", size=5 << 30, sha256="0" * 64)
    with (staged / "big").open("wb") as file:
        file.truncate(big.size)
    write_manifest(staged, manifest.model_copy(update={"files": (big,)}))
    monkeypatch.setattr("slurm.staging.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(NoRoom, match=rf"{target.parent}: 5\.0 GiB are needed, 1\.0 MiB are free"):
        copy(staged, target)
    assert nothing_is_left(target)


def test_two_copies_at_once_are_one(staged: Path, target: Path) -> None:
    waiting, copied = threading.Event(), list[bool]()
    with locked(target.with_name(".llama.lock")):
        threads = [threading.Thread(target=lambda: copied.append(copy(staged, target, on_wait=waiting.set)))]
        threads += [threading.Thread(target=lambda: copied.append(copy(staged, target)))]
        for thread in threads:
            thread.start()
        assert waiting.wait(10)
        assert not target.exists()
    for thread in threads:
        thread.join()
    assert sorted(copied) == [False, True]
    assert lies_in(target) == FILES


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_used_all_the_same(
    staged: Path, target: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert copy(staged, target)
    assert lies_in(target) == FILES


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.ENOSPC, NoRoom, "/local: the disk, or your quota on it, is full; free some room there"),
        (errno.EDQUOT, NoRoom, "/local: the disk, or your quota on it, is full; free some room there"),
        (errno.EACCES, StagingError, "/local/a: Permission denied; choose a folder that you may write to"),
        (errno.EROFS, StagingError, "/local/a: Read-only file system; choose a folder that you may write to"),
        (errno.EIO, StagingError, "/local/a: Input/output error"),
    ],
)
def test_what_the_disk_says_in_one_line(number: int, kind: type[StagingError], says: str) -> None:
    with pytest.raises(kind) as caught, disk_errors(Path("/local")):
        raise OSError(number, os.strerror(number), "/local/a")
    assert str(caught.value) == says


@pytest.mark.parametrize("text", ["", "{", "[]", '{"source": "a/b", "revision": "1", "files": [{"path": "../x"}]}'])
def test_a_broken_manifest_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../../b", "a\0b"])
def test_a_manifest_names_no_file_outside(path: str) -> None:
    with pytest.raises(ValueError, match="no path inside"):
        StagedFile(path=path, size=1, sha256="")
