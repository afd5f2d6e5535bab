"""Session files from a disk that lost some of them: a session or none, and always one that can be sent."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deployments.retrieval.session_files import TITLE, append_turn, read_session, write_session
from tests.unit.mutations import SENDABLE, VALUES, changed, damaged

FUZZED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEAD = {"id": "a" * 24, "collection": "handbook", "created": 1_000_000.5}
TURN = {"question": "How long?", "answer": "48 hours \N{LLAMA}", "at": 1_000_001.5, "citations": [{"score": 0.5}]}
WHOLE = b"".join(json.dumps(line).encode() + b"\n" for line in (HEAD, TURN, TURN))
TURNS = st.dictionaries(
    st.sampled_from(["question", "answer", "citations"]) | st.text(max_size=8), SENDABLE, max_size=4
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "owner" / "a.jsonl"


def sendable(content: bytes, path: Path) -> None:
    """What is read of it, if anything is, goes out as the gateway's JSON."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with suppress(FileNotFoundError):
        found = read_session(path)
        told = json.dumps([found.to_json(), found.history], ensure_ascii=False, allow_nan=False).encode()
        assert json.loads(told)[0]["turns"] == [*map(dict, found.turns)]
        assert len(found.card()["title"]) <= TITLE
        assert isinstance(found.created, float)
        assert isinstance(found.updated, float)


@FUZZED
@given(st.binary(max_size=80) | damaged(WHOLE))
@example(b'{"collection": "a", "created": NaN}\n')
@example(b'{"collection": "a", "created": ' + b"9" * 400 + b"}\n")
@example(b'{"collection": "a"}\n{"at": 1e999, "question": "\\ud800"}\n')
@example(b"[" * 200_000)
def test_any_bytes_are_a_session_or_none(path: Path, content: bytes) -> None:
    sendable(content, path)


@FUZZED
@given(st.lists(changed(HEAD) | changed(TURN) | VALUES, max_size=3))
def test_any_lines_are_a_session_or_none(path: Path, lines: list[Any]) -> None:
    sendable(b"".join(json.dumps(line).encode() + b"\n" for line in [HEAD, *lines]), path)
    sendable(b"".join(json.dumps(line).encode() + b"\n" for line in [*lines, HEAD]), path)


@FUZZED
@given(first=TURNS, second=TURNS, third=TURNS, data=st.data())
def test_what_was_kept_comes_back_up_to_where_it_was_torn(
    path: Path, first: dict[str, Any], second: dict[str, Any], third: dict[str, Any], data: st.DataObject
) -> None:
    write_session(path, HEAD, first, 1)
    begun = path.stat().st_size
    append_turn(path, second, 2)
    kept = [{**first, "at": 1}, {**second, "at": 2}]
    assert list(read_session(path).turns) == kept
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(begun, len(whole) - 1))])
    assert list(read_session(path).turns) in (kept[:1], kept)
    append_turn(path, third, 3)
    found = read_session(path)
    assert list(found.turns) == [kept[0], {**third, "at": 3}]
    assert (found.collection, found.created, found.updated) == (HEAD["collection"], HEAD["created"], 3)
