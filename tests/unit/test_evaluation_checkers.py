"""What counts as the same answer: letters, numbers and choices, also where people write them oddly."""

from __future__ import annotations

import pytest

from app.evaluation.checkers import choice, exact, is_right, number
from app.evaluation.numbers import numbers
from app.evaluation.tasks import Task


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("The owner of willow is Ada.", "the owner of willow is ada", True),
        ("  The owner\n of   willow is Ada . ", "The owner of willow is Ada.", True),
        ('**"Paris!"**', "Paris", True),
        ("\u201cParis\u201d\u2026", "paris", True),
        ("\uff30\uff21\uff32\uff29\uff33", "paris", True),
        ("STRASSE", "straße", True),
        ("-5", "5", False),
        ("5%", "5", False),
        ("/data", "data", False),
        ("It is Paris", "Paris", False),
        ("co-op", "coop", False),
        ("48 hours. The draft is supported.", "48 hours The draft is supported.", False),
        ("", "Paris", False),
    ],
)
def test_exact(answer: str, reference: str, same: bool) -> None:
    assert exact(answer, reference) is same


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("between 3 and 4.5", [3, 4.5]),
        ("1,234,567.5 people", [1234567.5]),
        ("12\u202f345\u00a0678 people", [12345678]),
        ("1,2,3", [1, 2, 3]),
        ("1,2345", [1, 2345]),
        ("-5 and \u22126 and +7", [-5, -6, 7]),
        ("willow-5, 10-4, (3)-2", [5, 10, 4, 3, 2]),
        ("H100 and CO2", []),
        ("100km at 5x", [100, 5]),
        (".5 or 2.", [0.5, 2]),
        ("6.02e23, 1E-3", [6.02e23, 0.001]),
        ("version 1.2.3", [1.2]),
        ("$5.", [5]),
        ("no digits", []),
    ],
)
def test_numbers_in_text(text: str, values: list[float]) -> None:
    assert [found.value for found in numbers(text)] == values


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("First 7, then 42.", "42", True),
        ("42 of 50", "42", False),
        ("1,000 km", "1000", True),
        ("3.1415926", "3.14159265", True),
        ("3.1416", "3.14159265", False),
        ("about \u22123.0 °C", "-3", True),
        ("3", "-3", False),
        ("12%", "12 %", True),
        ("12 %", "12", True),
        ("0.12", "12%", True),
        ("12%", "0.12", True),
        ("12%", "1200", False),
        ("0", "0", True),
        ("0.0000001", "0", False),
        ("none", "0", False),
        ("1e999", "5", False),
    ],
)
def test_number(answer: str, reference: str, right: bool) -> None:
    assert number(answer, reference) is right


CITIES = {"A": "Paris", "B": "New York", "C": "York"}


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("The answer is C.", "C"),
        ("Not A, not C: it is **B**.", "B"),
        ("A, because Capitals count", "A"),
        ("paris", "A"),
        ("It is New York, of course.", "B"),
        ("It is York.", "C"),
        ("first paris, no: york", "C"),
        ("the answer is b", "B"),
        ("Berlin", None),
        ("ABC", None),
        ("", None),
    ],
)
def test_choice(answer: str, label: str | None) -> None:
    assert choice(answer, CITIES) == label


def test_choices_whose_texts_hold_labels_of_others() -> None:
    vitamins = {"A": "vitamin B", "B": "vitamin A"}
    assert choice("Vitamin B.", vitamins) == "A"


@pytest.mark.parametrize(("answer", "label"), [("2", "2"), ("It is 1.", "1"), ("It is 1.5", None), ("12", None)])
def test_labels_that_are_digits(answer: str, label: str | None) -> None:
    assert choice(answer, {"1": "", "2": ""}) == label


def test_a_task_knows_its_checker() -> None:
    task = {"id": "t", "question": "?", "reference": "B", "checker": "choice", "choices": ["A", "B"]}
    assert is_right(Task.model_validate(task), "B it is")
    rubric = Task.model_validate({"id": "t", "question": "?", "checker": "rubric", "rubric": "It is kind."})
    with pytest.raises(ValueError, match="needs a judge"):
        is_right(rubric, "B")
