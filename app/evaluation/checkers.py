"""Whether an answer is right, as far as that can be told without a model. (judge.py asks one about a rubric.)

exact   The whole answer is the reference. Ignored are letter case, how much white space there is, and these marks at
        either end: . , ; : ! ? quotation marks, backticks, * _ and brackets. Marks inside count, and so do - + / % $ #.
number  The last number in the answer is the reference within one millionth of it; see numbers.py for what a number
        is. Units are ignored, also a percent sign on one side only: then 12 % is 12 and 0.12.
choice  The choice that the answer names is the reference. It names the one whose label or text it is as a whole; else
        the last label that stands alone in it, as it is written; else the last choice whose text is in it; else the
        last label in any letter case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from app.evaluation.numbers import numbers
from app.evaluation.tasks import Task

OUTER = " .,;:!?\"'`*_()[]{}<>\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb\u2026"


def is_right(task: Task, answer: str) -> bool:
    """Whether the answer is right, for every checker but `rubric`."""
    if task.checker == "exact":
        return exact(answer, task.reference)
    if task.checker == "number":
        return number(answer, task.reference)
    if task.checker == "choice":
        return choice(answer, task.choices or {}) == task.reference
    raise ValueError(f"the checker {task.checker} needs a judge")


def exact(answer: str, reference: str) -> bool:
    return normalised(answer) == normalised(reference)


def number(answer: str, reference: str) -> bool:
    said = numbers(answer)
    return bool(said) and said[-1].is_close_to(numbers(reference)[0])


def choice(answer: str, choices: Mapping[str, str]) -> str | None:
    """The label of the choice that the answer names, or None if it names none."""
    whole = normalised(answer)
    for label, text in choices.items():
        if whole and whole in (normalised(label), normalised(text)):
            return label
    labels = {label: label for label in choices}
    texts = {label: text for label, text in choices.items() if text.strip()}
    return (
        _last(answer, labels.items())
        or _last(whole, ((label, normalised(text)) for label, text in texts.items()))
        or _last(answer.casefold(), ((label, label.casefold()) for label in choices))
    )


def normalised(text: str) -> str:
    """One form for all ways to write the same: see `exact` above."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(OUTER)


def _last(answer: str, words: Iterable[tuple[str, str]]) -> str | None:
    """The label whose words stand alone in the answer last; of two that end there, the longer one."""
    found: list[tuple[int, int, str]] = []
    for label, word in words:
        ends = [match.end() for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w|\.\d)", answer)]
        found += [(end, len(word), label) for end in ends]
    return max(found)[2] if found else None
