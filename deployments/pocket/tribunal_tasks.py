"""Held-out tasks for tribunals of the pocket herd: `python -m deployments.pocket.tribunal_tasks` writes them anew.

Six kinds, a hundred each, on fresh passages that tell only pairings of name and value which never occur in training:

    told          a question on a fact of a passage of one to eight
    untold        a question that such a passage does not answer
    draft         a draft of one statement to judge and to mend
    long draft    a draft of two to four statements, of which four in five have at least one wrong value; never trained
    unseen names  told or untold, about names that no training text holds
    crowded       told or untold, in a passage of nine to twelve facts; more than were ever trained

The reference is the whole reply, word for word.
"""

import json
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Final, TypeAlias

from deployments.pocket import NOT_SUPPORTED, SUPPORTED
from deployments.pocket.handbook import Fact, Passage, Style, draw_passage
from deployments.pocket.names import UNSEEN
from deployments.pocket.tasks import STANDARD, Mix, Turn, turns_about
from deployments.pocket.tasks import Task as Sort
from deployments.pocket.tasks import _wrong as wrong_value

FILE: Final = Path(__file__).parent / "tribunal_tasks.jsonl"
SEED: Final = "tribunal tasks"
EACH: Final = 100
"""Tasks of each kind."""

Draw: TypeAlias = Callable[[Random, int], tuple[str, str]]
"""Draws the question and the reference of the task with this index."""

UNSEEN_STYLE: Final = Style(names=UNSEEN, suffixed=0.0, invented=0.0)


def _passage(rng: Random, facts: int, style: Style = STANDARD) -> Passage:
    """A passage with exactly so many facts."""
    while len((passage := draw_passage(rng, facts, "held_out", style)).facts) != facts:
        pass
    return passage


def _turn(rng: Random, passage: Passage, sort: Sort, style: Style = STANDARD) -> tuple[str, str]:
    mix = Mix(judge=1.0, plain=1.0, refuse=9.0, repeat=0.0, asks=1, style=style)
    turn = next(turn for turn in turns_about(rng, passage, mix, "held_out") if turn.task == sort)
    return _asked(passage, turn), turn.reference


def _asked(passage: Passage, turn: Turn) -> str:
    return f"Passage: {passage.text}\n\n{turn.prompt}"


def _plain(sort: Sort) -> Draw:
    return lambda rng, index: _turn(rng, _passage(rng, 1 + index % 8), sort)


def _unseen(rng: Random, index: int) -> tuple[str, str]:
    passage = _passage(rng, 1 + index // 2 % 5, UNSEEN_STYLE)
    return _turn(rng, passage, "refuse" if index % 2 else "answer", UNSEEN_STYLE)


def _crowded(rng: Random, index: int) -> tuple[str, str]:
    return _turn(rng, _passage(rng, 9 + index // 2 % 4), "refuse" if index % 2 else "answer")


def _long_draft(rng: Random, index: int) -> tuple[str, str]:
    passage = _passage(rng, 4 + index % 5)
    facts = rng.sample(passage.facts, rng.randint(2, 4))
    wrong = [False] * len(facts)
    while index % 5 and not any(wrong):
        wrong = [rng.random() < 0.5 for _ in facts]
    drafted = [_mistaken(rng, fact, passage) if mistake else fact for fact, mistake in zip(facts, wrong, strict=True)]
    prompt = "Draft: " + " ".join(fact.answer() for fact in drafted)
    mended = " ".join(fact.answer() for fact in facts)
    return _asked(passage, Turn("judge", prompt, "")), f"{mended} {NOT_SUPPORTED if any(wrong) else SUPPORTED}"


def _mistaken(rng: Random, fact: Fact, passage: Passage) -> Fact:
    return Fact(fact.entity, fact.attribute, wrong_value(rng, fact, passage, "held_out"))


KINDS: Final[dict[str, Draw]] = {
    "told": _plain("answer"),
    "untold": _plain("refuse"),
    "draft": _plain("judge"),
    "long draft": _long_draft,
    "unseen names": _unseen,
    "crowded": _crowded,
}


def _drawn(kind: str) -> Iterator[tuple[str, str]]:
    """Different questions of one kind, without end."""
    rng = Random(f"{SEED}-{kind}")
    seen: set[str] = set()
    for index in count():
        while (drawn := KINDS[kind](rng, index))[0] in seen:
            pass
        seen.add(drawn[0])
        yield drawn


def lines() -> Iterator[str]:
    """Every task as a line of JSON."""
    for kind in KINDS:
        for number, (question, reference) in enumerate(islice(_drawn(kind), EACH), 1):
            task = {
                "id": f"{kind.replace(' ', '-')}-{number:03}", "question": question, "reference": reference,
                "checker": "exact", "tags": [kind],
            }  # fmt: skip
            yield json.dumps(task) + "\n"


def main() -> None:
    FILE.write_text("".join(lines()), encoding="utf-8")


if __name__ == "__main__":
    main()
