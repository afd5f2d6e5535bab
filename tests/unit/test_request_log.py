"""Log lines of requests: JSON, with ids, without anybody's words, in files that are private and bounded."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.bounded_log import open_log, shorten, shorten_logs
from app.log_files import read
from deployments import request_log
from deployments.principal import CURRENT, Principal
from deployments.request_log import NOTES, PrivateFile, note, start_log, tell

ON_A_FULL_DISK = """
import logging, sys
from ray.serve._private.logging_utils import StreamToLogger
from deployments.request_log import start_log
logger = logging.getLogger("ray.serve")
logger.addHandler(logging.FileHandler("/dev/full"))
logger.propagate = False
sys.stderr = StreamToLogger(logger, logging.INFO, sys.stderr)
start_log("replica")
logger.warning("a line for which there is no room")
print("and the request goes on")
"""
"""Serve sends what its replicas write to standard error to their logs."""


@contextmanager
def closed_afterwards() -> Iterator[None]:
    """What start_log did to the process is undone."""
    logger = logging.getLogger("corral")
    level, propagate, raises = logger.level, logger.propagate, logging.raiseExceptions
    yield
    logging.raiseExceptions = raises
    for handler in [each for each in logger.handlers if isinstance(each, PrivateFile)]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)
    logger.propagate = propagate


def lines(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for path in sorted(folder.glob("requests_*.log")) for line in path.read_text().splitlines()
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    token = CURRENT.set(Principal("alice", request="uid", label="req-1"))
    with closed_afterwards():
        start_log("gateway", tmp_path / "logs")
        start_log("gateway", tmp_path / "again")  # the first counts
        yield tmp_path / "logs"
    CURRENT.reset(token)


def test_a_line_names_the_request_and_its_key(folder: Path) -> None:
    tell("request", status=200, model=None)
    (line,) = lines(folder)
    assert line.pop("time") > 0
    assert line == {"level": "info", "event": "request", "id": "req-1", "uid": "uid", "key": "alice", "status": 200}
    assert not (folder.parent / "again").exists()


def test_the_file_is_its_owners_alone_and_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (handler,) = (each for each in logging.getLogger("corral").handlers if isinstance(each, PrivateFile))
    handler.maxBytes = 1000
    for number in range(100):
        tell("request", status=number)
    files = sorted(folder.iterdir())
    assert len(files) == request_log.FILES
    assert all(path.stat().st_mode & 0o777 == 0o600 and path.stat().st_size <= 1000 for path in files)
    assert lines(folder)[-1]["status"] == 99


def test_an_error_is_told_by_type_and_place_but_not_by_its_words(folder: Path) -> None:
    try:
        try:
            dict[str, str]()["a prompt"]
        except KeyError as error:
            raise ValueError("a prompt: input_value='a prompt'") from error
    except ValueError:
        logging.getLogger("corral.gateway").exception("unexpected failure")
    (line,) = lines(folder)
    assert (line["id"], line["message"], line["error"], line["because"]) == (
        "req-1", "unexpected failure", "ValueError", "KeyError",
    )  # fmt: skip
    assert line["at"][-1].startswith("test_request_log.py:")
    assert "a prompt" not in json.dumps(line)


def test_what_is_noted_is_the_requests_own() -> None:
    note(model="nobody listens")
    notes: dict[str, Any] = {}
    token = NOTES.set(notes)
    note(model="m")
    NOTES.reset(token)
    assert notes == {"model": "m"}


def test_without_a_ray_there_is_no_log() -> None:
    with closed_afterwards():
        start_log("gateway")
        assert not any(isinstance(each, PrivateFile) for each in logging.getLogger("corral").handlers)


def test_a_long_log_is_begun_again_under_who_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "keeper.log"
    path.parent.mkdir()
    with open_log(path) as log:
        log.write(b"x" * 100)
        log.flush()
        shorten_logs(tmp_path, 200)
        assert path.stat().st_size == 100
        shorten_logs(tmp_path, 99)
        log.write(b"later")
    kept = path.with_name("keeper.1.log")
    assert (path.read_text(), kept.stat().st_size) == ("later", 100)
    assert [each.stat().st_mode & 0o777 for each in (path, kept)] == [0o600, 0o600]
    shorten(kept, 1)
    assert kept.stat().st_size == 100


def test_lines_about_one_request_are_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "edge.log"
    path.write_text("".join(f'{{"id":"r{number}"}}\n' for number in range(30)))
    assert [line for _, line in read([path], 2, False, about='"r1')] == ['{"id":"r18"}', '{"id":"r19"}']


def test_a_line_for_which_there_is_no_room_costs_its_request_nothing() -> None:
    words = [sys.executable, "-c", ON_A_FULL_DISK]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert (done.returncode, done.stdout) == (0, "and the request goes on\n"), done.stderr[-2000:]
