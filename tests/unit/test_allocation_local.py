"""What a job has on a node for itself: a folder, ports and shared memory; and the copy of its logs."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import app.ports
from app.allocation import log_mirror
from app.allocation.local_folder import local_folder, remove_stale
from app.allocation.log_mirror import LogMirror
from app.ports import PortBlock
from app.processes import remove_unused_shared_memory

ME = os.getuid()

HOLD_FOLDER = """
import os, sys, time
from pathlib import Path
from app.allocation.local_folder import local_folder
with local_folder(sys.argv[1], os.getuid(), Path(sys.argv[2])) as folder:
    print(folder, flush=True)
    time.sleep(60)
"""

HOLD_MEMORY = """
import multiprocessing, time
from multiprocessing.shared_memory import SharedMemory
semaphore = multiprocessing.get_context("spawn").Semaphore()
block = SharedMemory(create=True, size=1)
print(f"sem.{semaphore._semlock.name[1:]} {block.name}", flush=True)
time.sleep(60)
"""

HOLD_BLOCK = """
import sys, time
import app.ports
app.ports.NODE_BLOCKS = range(*map(int, sys.argv[1:]))
block = app.ports.PortBlock.reserve()
print(block.first, flush=True)
time.sleep(60)
"""

Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python with a text and arguments, in a group of its own; returns it and its first line."""
    started = []

    def start(text: str, *arguments: object) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-c", text, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """With all that it started, Python's resource tracker above all: nothing tidies up."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_folder_is_its_owners_alone_and_gone_afterwards(tmp_path: Path) -> None:
    with local_folder("7", ME, tmp_path) as folder:
        assert folder == tmp_path / "corral-7"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "ray").mkdir()
        (folder / "ray" / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_gone_after_a_failure_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), local_folder("7", ME, tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holders_folder_goes_with_the_next_and_a_live_ones_stays(tmp_path: Path, start: Start) -> None:
    killed, left = start(HOLD_FOLDER, "7", tmp_path)
    _, living = start(HOLD_FOLDER, "8", tmp_path)
    kill(killed)
    assert Path(left).exists()
    with local_folder("9", ME, tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["corral-8", "corral-9"]
    assert Path(living, "lock").exists()


def test_a_folder_that_another_agent_has_cannot_be_had_nor_is_it_removed(tmp_path: Path, start: Start) -> None:
    _, theirs = start(HOLD_FOLDER, "7", tmp_path)
    with pytest.raises(OSError, match="unavailable"), local_folder("7", ME, tmp_path):
        pass
    assert Path(theirs, "lock").exists()


def test_what_a_killed_agent_of_the_same_job_left_is_not_found_again(tmp_path: Path, start: Start) -> None:
    killed, left = start(HOLD_FOLDER, "7", tmp_path)
    Path(left, "token").touch()
    kill(killed)
    with local_folder("7", ME, tmp_path) as folder:
        assert [path.name for path in folder.iterdir()] == ["lock"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    for each in (disk, elsewhere):
        each.mkdir()
    (elsewhere / "lock").touch()
    (disk / "corral-7").symlink_to(elsewhere)
    assert remove_stale(ME, disk) == []
    with pytest.raises(OSError, match="belongs to somebody else"), local_folder("7", ME, disk):
        pass
    assert (elsewhere / "lock").exists()


def test_other_owners_folders_and_other_names_are_left_alone(tmp_path: Path) -> None:
    for name in ("corral-7", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    assert remove_stale(ME + 1, tmp_path) == []
    with pytest.raises(OSError, match="belongs to somebody else"), local_folder("7", ME + 1, tmp_path):
        pass
    assert remove_stale(ME, tmp_path) == [tmp_path / "corral-7"]
    assert (tmp_path / "mine" / "lock").exists()


@pytest.fixture
def node(tmp_path: Path) -> Path:
    for folder in ("logs", "edge", f"{log_mirror.RAY}/serve"):
        (tmp_path / "node" / folder).mkdir(parents=True)
    return tmp_path / "node"


def copied(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_mirror_appends_what_is_new(node: Path, tmp_path: Path) -> None:
    mirror = LogMirror(node, tmp_path / "copy" / "n1")
    mirror.copy_new()
    assert not (tmp_path / "copy").exists()
    ray = node / log_mirror.RAY
    for file in (node / "logs/ray.log", node / "edge/haproxy.log", ray / "serve/replica.log", ray / "worker-1.err"):
        file.write_text("one\n")
    (ray / "debug_state.txt").write_text("not for people")
    (node / "token").write_text("secret")
    mirror.copy_new()
    with (node / "logs/ray.log").open("a") as log:
        log.write("two\n")
    mirror.copy_new()
    mirror.copy_new()
    assert copied(tmp_path / "copy" / "n1") == {
        "ray.log": "one\ntwo\n", "haproxy.log": "one\n", "replica.log": "one\n", "worker-1.err": "one\n",
    }  # fmt: skip
    assert stat.S_IMODE((tmp_path / "copy" / "n1").stat().st_mode) == 0o700


def test_a_file_that_is_begun_again_is_followed_from_its_beginning(node: Path, tmp_path: Path) -> None:
    """Logs of requests are, once they are long."""
    mirror = LogMirror(node, tmp_path / "copy")
    for text in ("a long line\n", "short\n", "short\nand more\n"):
        (node / "logs/requests.log").write_text(text)
        mirror.copy_new()
    assert copied(tmp_path / "copy") == {"requests.log": "a long line\nshort\nand more\n"}


def test_what_is_past_the_bound_stays_on_the_node(node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_mirror, "MAX_BYTES", 8)
    monkeypatch.setattr(log_mirror, "PIECE", 2)
    mirror = LogMirror(node, tmp_path / "copy")
    for text in ("123456", "123456789012", "12345678901234567890"):
        (node / "logs/ray.log").write_text(text)
        mirror.copy_new()
    assert copied(tmp_path / "copy") == {"ray.log": "12345678"}


def test_files_that_vanish_or_cannot_be_read_stop_nothing(node: Path, tmp_path: Path) -> None:
    mirror = LogMirror(node, tmp_path / "copy")
    (node / "logs/a.log").write_text("one\n")
    mirror.copy_new()
    (node / "logs/a.log").unlink()
    (node / "logs/b.log").symlink_to(node / "nowhere")
    (node / "logs/c.log").mkdir()
    (node / "logs/d.log").write_text("two\n")
    mirror.copy_new()
    assert copied(tmp_path / "copy") == {"a.log": "one\n", "d.log": "two\n"}


def test_shared_memory_goes_once_nobody_has_it_and_other_names_stay(start: Start) -> None:
    holder, names = start(HOLD_MEMORY)
    held = [Path("/dev/shm", name) for name in names.split()]
    other = Path("/dev/shm", f"corral-test-{secrets.token_hex(4)}")
    other.touch()
    try:
        remove_unused_shared_memory(ME)
        assert [path.exists() for path in held] == [True, True]
        kill(holder)
        remove_unused_shared_memory(ME + 1)
        assert [path.exists() for path in held] == [True, True]
        assert set(held) <= set(remove_unused_shared_memory(ME))
        assert [path.exists() for path in held] == [False, False]
        assert other.exists()
    finally:
        for path in (*held, other):
            path.unlink(missing_ok=True)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> range:
    """Two blocks where neither jobs nor the kernel choose ports; another run of these tests has others."""
    first = 61000 + os.getpid() % 8 * 480
    blocks = range(first, first + 480, 240)
    monkeypatch.setattr(app.ports, "NODE_BLOCKS", blocks)
    return blocks


def test_two_processes_never_have_the_same_block_and_a_killed_ones_is_free_again(start: Start, blocks: range) -> None:
    span = (blocks.start, blocks.stop, blocks.step)
    held = [start(HOLD_BLOCK, *span) for _ in blocks]
    assert sorted(int(first) for _, first in held) == list(blocks)
    with pytest.raises(OSError, match="no 240 consecutive free ports"):
        PortBlock.reserve()
    killed, first = held[0]
    kill(killed)
    block = PortBlock.reserve()
    assert block.first == int(first)
    block.release()


@pytest.mark.parametrize("taken", [0, 17, 239])
def test_a_block_with_a_taken_port_is_passed_over_until_it_is_free(taken: int, blocks: range) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", blocks[0] + taken))
        other.listen()
        first = PortBlock.reserve()
        assert first.first == blocks[1]
        with pytest.raises(OSError, match="no 240 consecutive free ports"):
            PortBlock.reserve()
    second = PortBlock.reserve()
    assert second.first == blocks[0]
    for block in (first, second):
        block.release()
