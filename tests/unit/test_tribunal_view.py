"""A tribunal on the terminal: columns, narrow ones, lines where there is no terminal, and texts that mean harm."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from app.tribunal.deliberation import Deliberation, clean
from app.tribunal.lines import summary
from app.tribunal.view import TribunalBoard, picture
from deployments.tribunal.events import EventType
from tests.unit.tribunal_stream import (
    DELIBERATION,
    GONE,
    HARMLESS,
    LARGE,
    NASTY,
    SMALL,
    WHOLE,
    Told,
    absent,
    drafted,
    envelopes,
    result,
    reviewed,
    started,
)


def folded(*told: Told) -> Deliberation:
    """As a watcher has it, with the first envelope at 0 s and a tenth of a second between them."""
    seen = Deliberation()
    for number, envelope in enumerate(envelopes(*told)):
        seen.fold(clean(envelope), number / 10)
    return seen


def drawn(seen: Deliberation, width: int, height: int = 40, now: float = 5) -> list[str]:
    console = Console(record=True, width=width, height=height, force_terminal=True, file=StringIO())
    console.print(picture(seen, width, height, now))
    return [line.rstrip() for line in console.export_text().splitlines()]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_members_stand_side_by_side() -> None:
    lines = drawn(folded(*DELIBERATION), 120)
    assert cells(lines[1]) == [LARGE, SMALL, GONE]
    assert [cells(line) for line in lines[3:7]] == [
        ["drafted in 0.2 s, 24 tokens", "drafted in 0.2 s, 24 tokens", "absent: it failed"],
        ["Ask sinfo.", HARMLESS, ""],
        ["reviewed in 0.3 s, 9 tokens", "abstained from reviewing", ""],
        ["pocket-3b accuracy 4, clarity 7.5", "", ""],
    ]
    assert lines[8:] == [
        "round 1: 1. pocket-70b 0.75, 2. pocket-3b and pocket-8b 0.25",
        "stopped: leader (no review could change it)",
        "answer, by pocket-70b",
        "  Ask sinfo.",
    ]


def test_drafts_grow_while_the_seconds_pass() -> None:
    lines = drawn(folded(*DELIBERATION[:5]), 120, now=5.25)
    assert cells(lines[3]) == ["drafting… 5 s"] * 3
    assert cells(lines[4]) == ["Ask sin", "", ""]


def test_where_there_is_no_room_members_stand_beneath_each_other() -> None:
    lines = drawn(folded(*DELIBERATION), 60)
    members = [lines.index(member) for member in (LARGE, SMALL, GONE)]
    assert members == sorted(members)
    assert lines[members[1] + 1 :][:3] == [
        "  drafted in 0.2 s, 24 tokens",
        f"  {HARMLESS}",
        "  abstained from reviewing",
    ]
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize(("width", "rows"), [(200, [5]), (120, [3, 2]), (80, [2, 2, 1])])
def test_as_many_stand_in_a_row_as_have_room(width: int, rows: list[int]) -> None:
    told = [started(number, f"model-{number}") for number in range(1, 6)]
    headings = [line for line in drawn(folded(*told), width) if "model-" in line]
    assert [line.count("model-") for line in headings] == rows


def test_only_the_end_of_a_long_draft_is_shown_until_it_is_over() -> None:
    text = "\n".join(f"line {number}" for number in range(100)) + "\n" + "word " * 400
    told = [started(1, SMALL), started(2, LARGE), drafted(1, SMALL, text), drafted(2, LARGE, "short")]
    lines = drawn(folded(*told), 100, height=24)
    assert len(lines) <= 24
    assert "word word" in lines[-2]
    assert not any("line 99" in line for line in lines)
    whole = drawn(folded(*told, (EventType.RESULT, {"result": result()})), 100, height=24)
    assert all(any(f"line {number} " in line for line in whole) for number in range(100))


def test_the_end_shows_all_but_the_answer() -> None:
    lines = drawn(folded(*DELIBERATION, started(7, SMALL, "review", 2), (EventType.RESULT, {"result": result()})), 120)
    assert "answer" not in "".join(lines)
    assert any("reviewing was cut short" in line for line in lines)


def test_the_latest_text_of_a_member_stands_for_it() -> None:
    revised = drafted(3, LARGE, "Ask squeue.", kind="revision", round=1)
    lines = drawn(
        folded(started(1, LARGE), drafted(1, LARGE, "Ask sinfo."), started(3, LARGE, "revision", 1), revised), 80
    )
    assert [cells(line)[0] for line in lines[3:6]] == [
        "drafted in 0.2 s, 24 tokens",
        "revised in 0.2 s, 24 tokens",
        "Ask squeue.",
    ]


def test_who_comes_too_late_is_absent_whatever_step_is_told() -> None:
    seen = folded(started(1, LARGE), started(2, SMALL), drafted(2, SMALL, "Look."), absent(2, LARGE, "too late"))
    assert [(call.member, call.reason) for call in seen.calls.values()] == [(LARGE, "too late"), (SMALL, None)]


def test_a_chair_that_only_writes_the_answer_has_no_column() -> None:
    lines = drawn(folded(started(1, SMALL), started(2, LARGE, "synthesis")), 80)
    assert cells(lines[1]) == [SMALL]
    assert lines[-1] == "answer, by pocket-70b" or lines[-2] == "answer, by pocket-70b"


def test_an_answer_may_be_taken_back() -> None:
    first: Told = (EventType.ANSWER_DELTA, {"text": "Ask m"})
    then: Told = (EventType.ANSWER_DELTA, {"text": "42", "replaces": True})
    assert drawn(folded(first, then), 80) == ["answer", "  42"]


def test_events_of_another_version_are_passed_over() -> None:
    seen = folded((EventType.STOP_REASON, {"reason": "budget", "detail": ""}))
    seen.fold({"v": 2, "id": "tri-1", "seq": 2, "type": "mood.changed"}, 0)
    assert drawn(seen, 80) == ["stopped: budget"]


def test_texts_are_neither_markup_nor_commands_to_the_terminal() -> None:
    told = [
        started(1, NASTY), drafted(1, NASTY, NASTY), absent(2, SMALL, NASTY), reviewed(3, SMALL, {NASTY: {NASTY: 1}}),
        (EventType.STOP_REASON, {"reason": NASTY, "detail": NASTY}), (EventType.ANSWER_DELTA, {"text": NASTY}),
    ]  # fmt: skip
    console = Console(width=200, force_terminal=True, color_system=None, file=StringIO())
    console.print(picture(folded(*told), 200, 40, 0))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count(HARMLESS) == 8
    assert not set("\x1b\x9b\u202e") & set(shown)


def board(terminal: bool) -> tuple[TribunalBoard, StringIO]:
    file = StringIO()
    console = Console(width=120, height=40, force_terminal=terminal, color_system=None, file=file)
    return TribunalBoard(console=console, clock=lambda: 0.0), file


def test_without_a_terminal_each_finished_thing_is_a_line() -> None:
    shown, file = board(terminal=False)
    with shown:
        for envelope in WHOLE:
            shown.update(envelope)
    assert file.getvalue().splitlines() == [
        "pocket-70b drafted in 0.2 s: Ask sinfo.",
        "pocket-1b was absent: it failed",
        f"pocket-3b drafted in 0.2 s: {HARMLESS}",
        "pocket-3b abstained from reviewing",
        "pocket-70b reviewed in 0.3 s: pocket-3b accuracy 4, clarity 7.5",
        "round 1: 1. pocket-70b 0.75, 2. pocket-3b and pocket-8b 0.25",
        "stopped: leader (no review could change it)",
    ]


def test_a_line_stays_one_line() -> None:
    shown, file = board(terminal=False)
    shown.update(envelopes(drafted(1, LARGE, "one\ntwo\n" + "three " * 100))[0])
    (line,) = file.getvalue().splitlines()
    assert line.startswith("pocket-70b drafted in 0.2 s: one two three")
    assert line.endswith("…")
    assert len(line) < 200


def test_on_a_terminal_it_stays_when_it_is_over() -> None:
    shown, file = board(terminal=True)
    with shown:
        for envelope in WHOLE:
            shown.update(envelope)
    last = file.getvalue().rpartition("╭")[2]
    assert "Ask sinfo." in last
    assert HARMLESS in last
    assert "stopped: leader" in last
    assert "answer" not in last


def test_the_summary_says_how_it_came_about_and_what_it_cost() -> None:
    assert summary(result()).splitlines() == [
        "ranking    1. pocket-70b 0.75, 2. pocket-3b and pocket-8b 0.25",
        "chosen by  chair",
        "stopped    leader (no review could change it)",
        "dissent    pocket-3b and pocket-8b said: Look it up.; pocket-1b preferred pocket-3b and pocket-8b",
        "absent     pocket-1b (it failed)",
        "abstained  pocket-3b",
        "cost       340 tokens in 2 calls, 2.1 s; 3.4 times what asking pocket-70b once took",
    ]


def test_the_summary_leaves_out_what_there_was_not() -> None:
    told = {**result(), "ranking": [], "dissent": [], "absent": [], "abstained": [], "stopped": {}}
    told["cost"] = {"tokens": 340, "single": None}
    assert summary(told) == "chosen by  chair\ncost       340 tokens in 2 calls, 2.1 s\n"
