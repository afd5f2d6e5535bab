"""Files of tasks: what is wrong is told with file, line and field, and the shipped one is what its generator gives."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.evaluation.tasks import EvaluationError, Task, chosen, read_tasks
from deployments.pocket import NOT_SUPPORTED, NOT_TOLD, SUPPORTED, tribunal_tasks
from deployments.pocket.handbook import split_of
from deployments.pocket.names import UNSEEN
from tests.unit.evaluation import questions

GOOD = {"id": "a", "question": "What is 6 times 7?", "reference": "42", "checker": "number"}


def written(tmp_path: Path, *tasks: Any) -> str:
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join((task if isinstance(task, str) else json.dumps(task)) + "\n" for task in tasks))
    return str(file)


def test_every_kind_of_task_is_read(tmp_path: Path) -> None:
    others: list[dict[str, Any]] = [
        {"id": "b", "messages": [{"role": "user", "content": "Hi"}], "reference": "Hello", "tags": ["greeting"]},
        {"id": "c", "question": "Which?", "reference": "A", "checker": "choice", "choices": {"A": "x", "B": "y"}},
        {"id": "d", "question": "Write.", "checker": "rubric", "rubric": "It rhymes."},
        {"id": "e", "question": "How many?", "reference": 7, "checker": "number"},
    ]
    found = read_tasks(written(tmp_path, GOOD, "", *others))
    assert [task.id for task in found.tasks] == list("abcde")
    assert found.needs_judge
    assert found.tasks[0].asked() == [{"role": "user", "content": "What is 6 times 7?"}]
    assert found.tasks[4].reference == "7"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"refrence": "1"}, "unknown key 'refrence' (did you mean 'reference'?)"),
        ({"id": None}, "id: Input should be a valid string"),
        ({"checker": "exakt"}, "checker: Input should be"),
        ({"reference": "many"}, "reference: 'many' is not one number"),
        ({"reference": "1 or 2"}, "reference: '1 or 2' is not one number"),
        ({"checker": "exact", "reference": " "}, "reference: the checker exact needs one"),
        ({"question": None}, "question: give either this or `messages`"),
        ({"question": None, "messages": [{"role": "robot", "content": "x"}]}, "messages.0.role: Input should be"),
        ({"question": None, "messages": [{"role": "assistant", "content": "x"}]}, "messages: the last one must be"),
        ({"checker": "choice"}, "choices: the checker choice needs some"),
        ({"checker": "choice", "choices": ["A"]}, "reference: '42' is no label of A"),
        ({"choices": ["42"]}, "choices: the checker choice needs some, and no other"),
        ({"checker": "rubric"}, "rubric: the checker rubric needs one"),
        ({"rubric": "x"}, "rubric: the checker rubric needs one, and no other takes one"),
    ],
)
def test_what_is_wrong_is_told_with_line_and_field(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    file = written(tmp_path, {**GOOD, "id": "first"}, {**GOOD, **change})
    with pytest.raises(EvaluationError) as error:
        read_tasks(file)
    assert f"{file}, line 2: {said}" in str(error.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{", GOOD], "line 1: this is not JSON"),
        (["[]"], "line 1: this must be a JSON object"),
        ([GOOD, "", GOOD], "line 3: id: 'a' is already the one of line 1"),
        ([""], "there is no task in it"),
        (["[]"] * 5, "and 2 more"),
        ([{"id": "", "question": "x", "reference": "y"}], "line 1: id: "),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, lines: list[Any], said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        read_tasks(written(tmp_path, *lines))


def test_a_task_without_an_id_is_called_by_its_line(tmp_path: Path) -> None:
    found = read_tasks(written(tmp_path, "", {"question": "x", "reference": "y"}))
    assert [task.id for task in found.tasks] == ["line-2"]


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(EvaluationError, match="not UTF-8"):
        read_tasks(str(tmp_path / "tasks.jsonl"))


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    text = "one\u2028two\u2029three\x85four"
    lines = [json.dumps({**GOOD, "id": each, "question": text}, ensure_ascii=False) for each in "ab"]
    (tmp_path / "tasks.jsonl").write_bytes("\r\n".join([*lines, "", ""]).encode())
    assert [task.question for task in read_tasks(str(tmp_path / "tasks.jsonl")).tasks] == [text, text]


def test_a_larger_limit_only_adds() -> None:
    tasks = questions(20)
    assert chosen(tasks, None, 3) == tasks
    few, more = chosen(tasks, 5, 3), chosen(tasks, 9, 3)
    assert more[:5] == few
    assert chosen(tasks, 5, 4) != few
    assert len(chosen(tasks, 99, 3)) == 20


def pocket() -> tuple[Task, ...]:
    return read_tasks("pocket").tasks


def test_the_shipped_tasks_are_what_the_generator_gives() -> None:
    assert "".join(tribunal_tasks.lines()) == tribunal_tasks.FILE.read_text(), (
        "run: python -m deployments.pocket.tribunal_tasks"
    )


def test_a_hundred_different_ones_of_each_kind_are_shipped() -> None:
    assert Counter(tag for task in pocket() for tag in task.tags) == dict.fromkeys(tribunal_tasks.KINDS, 100)
    assert len({task.question for task in pocket()}) == 600


def told(task: Task) -> list[tuple[str, str]]:
    """Entity and value of everything that the reference tells from the passage."""
    statements = [s for s in task.reference.split(". ") if s.startswith("The ") and NOT_TOLD not in s]
    pairs = [s.removesuffix(".").split(" of ", 1)[1].split(" is ", 1) for s in statements if " of " in s]
    return [(entity, value) for entity, value in pairs]


def test_what_the_references_tell_was_never_trained() -> None:
    pairs = [pair for task in pocket() for pair in told(task)]
    assert len(pairs) > 500
    assert {split_of(entity, value) for entity, value in pairs} == {"held_out"}


def test_references_stand_in_their_passages_and_drafts_are_mended() -> None:
    for task in pocket():
        passage, _, asked = (task.question or "").partition("\n\n")
        assert all(entity in passage and value in passage for entity, value in told(task))
        if asked.startswith("Draft: "):
            draft = asked.removeprefix("Draft: ")
            assert (task.reference == f"{draft} {SUPPORTED}") != task.reference.endswith(NOT_SUPPORTED)


def test_long_drafts_are_about_different_facts() -> None:
    long = [task for task in pocket() if task.tags == ("long draft",)]
    assert {len(told(task)) for task in long} == {2, 3, 4}
    assert all(len(set(told(task))) == len(told(task)) for task in long)
    assert sum(task.reference.endswith(SUPPORTED) for task in long) == 20


def test_unseen_names_are_unseen() -> None:
    unseen = [task for task in pocket() if task.tags == ("unseen names",)]
    assert all(any(name in task.reference for name in UNSEEN) for task in unseen)
    assert sum(NOT_TOLD in task.reference for task in unseen) == 50
