"""Figures in words, and text of others that must not do anything."""

from __future__ import annotations

import pytest

from loadtests.records import Interval, Point
from loadtests.report import words


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "\N{EN DASH}"), (float("nan"), "\N{EN DASH}"), (float("inf"), "\N{EN DASH}"), (0.0, "0"),
        (0.012, "0.0120"), (1.234, "1.23"), (9.996, "10.0"), (12.34, "12.3"), (99.96, "100"), (12345.6, "12,346"),
        (-2.75, "-2.75"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits_or_all_whole_ones(value: float | None, told: str) -> None:
    assert words.number(value) == told


def test_times_choose_their_unit() -> None:
    assert [words.time(each) for each in (0.5, 12.0, 999.0, 1500.0, None)] == [
        "0.500 ms", "12.0 ms", "999 ms", "1.50 s", "\N{EN DASH}",
    ]  # fmt: skip


def test_an_interval_is_told_only_where_there_is_one() -> None:
    assert words.span(Interval(value=10)) == "10.0"
    assert words.span(Interval(value=0.97, low=0.951, high=0.99, repeats=3), digits=2) == "0.97 (0.95 to 0.99)"


def test_changes_are_percents_with_their_interval() -> None:
    assert words.percent(Interval(value=0.042, low=-0.01, high=0.1, repeats=3)) == "+4.2 % (-1.0 to +10.0)"
    assert words.percent(Interval(value=-1)) == "-100.0 %"
    assert words.percent(None) == "\N{EN DASH}"


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("llama-3.2-1b", "1b"), ("Llama-3.1-70B-Instruct-FP8", "70b"), ("pocket-8b", "8b"), ("qwen2.5-3b", "3b"),
        ("tinyllama-1.1b", "1.1b"), ("smollm2-135m", ""), ("mixtral-8x7b", ""), ("web", ""), ("1b1", ""),
    ],
)  # fmt: skip
def test_a_size_is_read_from_a_name(model: str, size: str) -> None:
    assert words.size_of(model) == size


def test_loads_and_faults_are_told_in_words() -> None:
    assert words.load(Point(model="m", concurrency=1)) == "1 user"
    assert words.load(Point(model="m", concurrency=2048)) == "2,048 users"
    assert words.load(Point(model="m", rate=3.5)) == "3.5 requests/s"
    assert words.faults({"timeout": 1, "broken_stream": 3, "empty": 0}) == "3 broken stream, 1 timeout"


def test_text_of_others_loses_what_steers() -> None:
    assert words.plain("a\n b\x1b[31m\u202ec\x00") == "a b\ufffd[31m\ufffdc\ufffd"
    assert words.plain_lines("a\n\tb\x07") == "a\n    b\ufffd"
    assert words.plain("to http://me:secret@host/x") == "to http://host/x"
    assert words.plain("from http://host/a@b") == "from http://host/a@b"
    assert words.plain("to http://me:p@ss@host/x and http://p@q@h") == "to http://host/x and http://h"


def test_a_file_has_lengths_of_its_own() -> None:
    assert words.tokens(Point(model="m", concurrency=1)) == "128 in, 128 out tokens"
    assert words.tokens(Point(model="m", concurrency=1, own_lengths=True)) == "lengths of the file"
