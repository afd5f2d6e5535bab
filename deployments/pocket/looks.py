"""Where some attention heads are taught to look.

A model of this size finds what is asked long before it finds whose it is: among several time
limits it guesses, and goes on guessing for thousands of steps. So a few heads are told, by a small
loss of their own, what to see: what a sentence tells looks back to the name that it tells it of;
a reply looks at what it says next where that is told, the name in the question and the value in
the passage; and a draft is compared word by word.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from deployments.pocket import NOT_TOLD
from deployments.pocket.handbook import Fact, Line, Passage
from deployments.pocket.tasks import Turn

Sight: TypeAlias = Literal["name", "next", "draft", "verdict"]
"""What a head is taught to see: the name that is told of; what is to be said next; the same word
of the draft; the words that differ from the draft's. The first token of all stands for nothing."""

SIGHTS: Final[tuple[Sight, ...]] = ("name", "next", "draft", "verdict")
Encode: TypeAlias = Callable[[str], Sequence[int]]
Span: TypeAlias = tuple[int, int]
"""The first character of a passage and the one after the last."""


@dataclass(frozen=True, slots=True)
class Look:
    """One token, `query`, that should see another, `key`, with a share of its attention."""

    sight: Sight
    query: int
    key: int
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Told:
    """A stretch of the passage that follows a name and tells something of it."""

    name: Span
    rest: Span
    values: tuple[tuple[Fact, Span], ...]


def told(passage: Passage) -> list[Told]:
    """What every name is followed by; a sentence that begins with `It` goes on with the name before."""
    found: list[Told] = []
    start = 0
    for line in passage.lines:
        end = start + len(line.text)
        if line.facts:
            place = line.text.find(f" {line.facts[0].entity}")
            after = place + 1 + len(line.facts[0].entity) if place >= 0 else 0
            name = (start + place + 1, start + after) if place >= 0 else found[-1].name
            found.append(Told(name, (start + after, end), _values(line, start, after)))
        start = end + 1
    return found


def _values(line: Line, start: int, after: int) -> tuple[tuple[Fact, Span], ...]:
    """The facts whose value comes after the name, with the value's place in the passage."""
    found = []
    for fact in line.facts:
        if (place := line.text.find(f" {fact.value}", after)) >= 0:
            after = place + 1 + len(fact.value)
            found.append((fact, (start + place + 1, start + after)))
    return tuple(found)


def all_see(sight: Sight, queries: Sequence[int], keys: Sequence[int]) -> list[Look]:
    """Every query sees all keys alike."""
    return [Look(sight, query, key, 1 / len(keys)) for query in queries for key in keys]


@dataclass(frozen=True, slots=True)
class Reply:
    """A turn's reply among the tokens of its branch."""

    turn: Turn
    asked: int
    """The first token of what the user says."""
    lead: str
    """What comes before the user's words."""
    said: int
    """The first token of the reply."""


def reply_looks(reply: Reply, values: dict[Fact, list[int]], encode: Encode) -> list[Look]:
    """What a reply should look at, where it tells something or finds it untold.

    values: the tokens of each value in the passage.
    """
    turn = reply.turn
    if turn.fact is None and NOT_TOLD not in turn.reference:
        return []
    subject, _, _ = turn.reference.partition(" is ")
    before, after = (len(encode(text)) for text in (subject.rpartition(" ")[0], subject))
    name, last = range(reply.said + before, reply.said + after), reply.said + after
    looks = _said_next(name.start - 1, _asked_name(reply, subject, encode), len(name))
    if turn.fact is None:
        return [*looks, *all_see("name", [last], name), Look("next", last, 0)]
    value = encode(f" {turn.fact.value}")
    looks += all_see("name", range(last, last + len(value)), name)
    looks += _said_next(last, values.get(turn.fact, []), len(value))
    return looks + (_draft_looks(reply, last + 1, value, encode) if turn.draft else [])


def _asked_name(reply: Reply, subject: str, encode: Encode) -> Sequence[int]:
    """The tokens of the name in what the user asks; none where it is not there as the reply spells it."""
    name = f" {subject.rpartition(' ')[2]}"
    place = reply.turn.prompt.find(name)
    if place < 0:
        return ()
    first = reply.asked + len(encode(reply.lead + reply.turn.prompt[:place]))
    return range(first, first + len(encode(name)))


def _said_next(query: int, keys: Sequence[int], length: int) -> list[Look]:
    """Each of `length` tokens, from the one after `query` on, is foreseen by looking at itself among `keys`."""
    return [Look("next", query + index, key) for index, key in enumerate(keys)] if len(keys) == length else []


def _draft_looks(reply: Reply, start: int, value: Sequence[int], encode: Encode) -> list[Look]:
    """The reply's value, whose first token is `start`, beside the draft's; then the verdict."""
    turn = reply.turn
    drafted = encode(f" {turn.draft}")
    place = turn.prompt.index(f" is {turn.draft}.") + len(" is")
    first = reply.asked + len(encode(reply.lead + turn.prompt[:place]))
    looks, other = [], []
    for index in range(len(value) + 1):
        looks.append(Look("draft", start + index, first + min(index, len(drafted))))
        if value[index : index + 1] != drafted[index : index + 1]:
            other.append(start + index)
    verdict = reply.said + len(encode(turn.reference.partition(". ")[0] + ". The draft is")) - 1
    return looks + all_see("verdict", [verdict], other or [0])
