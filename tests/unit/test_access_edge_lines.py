"""The edge's lines out of the keeper's pipe: whole, in order, each once, however they are cut; and what is too long."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.edge_lines import LINE_BYTES, READ_BYTES, EdgeLines, HeldPipe, Lines

LINES = st.lists(
    st.builds(
        lambda text, longer: text.replace(b"\n", b"") + b"x" * longer,
        st.binary(max_size=20),
        st.sampled_from([0, 0, 1, LINE_BYTES - 21, LINE_BYTES, 3 * LINE_BYTES]),
    ),
    max_size=8,
)


@given(LINES, st.data())
def test_however_lines_are_cut_they_are_taken_as_they_were(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    taken: list[bytes] = []
    reader = Lines(taken.append)
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.feed(stream[begin:end])
        assert len(reader._begun) <= LINE_BYTES
    assert taken == [line for line in lines if len(line) < LINE_BYTES]


@given(st.lists(st.binary(max_size=200)))
def test_whatever_comes_a_line_after_it_is_taken(pieces: list[bytes]) -> None:
    taken: list[bytes] = []
    reader = Lines(taken.append)
    for piece in pieces:
        reader.feed(piece)
    reader.feed(b"\nlast\n")
    assert taken[-1] == b"last"
    assert b"\n" not in b"".join(taken)


def test_a_line_that_fails_takes_no_other_with_it(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[int] = []
    with caplog.at_level(logging.ERROR):
        Lines(lambda line: taken.append(int(line))).feed(b"1\nx\n2\n")
    assert taken == [1, 2]
    assert "could not be counted" in caplog.text


@pytest.fixture
def held(tmp_path: Path) -> Iterator[HeldPipe]:
    held = HeldPipe(tmp_path / "pipe")
    yield held
    held.close()


def test_lines_wait_for_who_reads_them_next(held: HeldPipe) -> None:
    os.write(held.opened(), b"first\nsecond\n")
    again = HeldPipe(held.path)
    taken: list[bytes] = []
    EdgeLines(again.opened(), Lines(taken.append)).read()
    again.close()
    os.write(held.opened(), b"third\n")
    later = EdgeLines(held.opened(), Lines(taken.append))
    later.read()
    later.read()  # nothing is there, and nothing is waited for
    assert taken == [b"first", b"second", b"third"]


def test_at_the_end_all_that_waits_is_read(held: HeldPipe) -> None:
    line = b"x" * (LINE_BYTES - 1)
    count = 3 * READ_BYTES // LINE_BYTES
    for _ in range(count):
        assert os.write(held.opened(), line + b"\n") == LINE_BYTES
    taken: list[bytes] = []
    EdgeLines(held.opened(), Lines(taken.append)).read_rest()
    assert taken == [line] * count


def test_a_full_pipe_takes_no_part_of_a_line(held: HeldPipe) -> None:
    line, count = b"x" * (LINE_BYTES - 1) + b"\n", 0
    with suppress(BlockingIOError):
        while os.write(held.opened(), line) == LINE_BYTES:
            count += 1
    taken: list[bytes] = []
    EdgeLines(held.opened(), Lines(taken.append)).read_rest()
    assert taken == [line[:-1]] * count
