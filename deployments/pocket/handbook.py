"""A seeded world of facts about a cluster, and passages of plain English that tell them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from random import Random
from typing import Final, Literal, TypeAlias
from zlib import crc32

from deployments.pocket.attributes import (
    ATTRIBUTES,
    FILLERS,
    SUBJECTS,
    Attribute,
    Kind,
    ValueKind,
)
from deployments.pocket.names import ENTITIES, FIRST, LAST, SUFFIXES

Split: TypeAlias = Literal["train", "held_out"]
KINDS: tuple[Kind, ...] = ("partition", "storage", "software", "team", "service")


@dataclass(frozen=True, slots=True)
class Fact:
    """One value of one attribute of one entity."""

    entity: str
    attribute: Attribute
    value: str

    def answer(self) -> str:
        """The reference answer to any question about this fact."""
        return f"The {self.attribute.noun} of {self.entity} is {self.value}."


@dataclass(frozen=True, slots=True)
class Style:
    """How hard the text may be; every share is a probability."""

    names: tuple[str, ...] = ENTITIES
    suffixed: float = 0.1
    invented: float = 0.06
    merged: float = 0.3
    pronoun: float = 0.1
    fronted: float = 0.1
    filler: float = 0.15
    rivals: float = 0.4
    """Passages that tell the same things of all their entities, which must then be told apart."""


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence and the facts of one entity that it tells, in its order; a filler tells none."""

    text: str
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True)
class Passage:
    """The sentences, what they tell, and the kind of every entity in them."""

    lines: tuple[Line, ...]
    facts: tuple[Fact, ...]
    kinds: dict[str, Kind]

    @property
    def text(self) -> str:
        return " ".join(line.text for line in self.lines)


def split_of(entity: str, value: str) -> Split:
    """Which side a pairing of entity and value belongs to: one in eight is held out for ever."""
    return "held_out" if crc32(f"{entity}|{value}".encode()) % 8 == 0 else "train"


def _number(rng: Random, digits: int) -> int:
    return rng.randint(10 ** (digits - 1) + 1, 10**digits - 1)


def _hours(rng: Random, number: int) -> str:
    return f"{number} {rng.choice(('hours', 'hours', 'days', 'minutes'))}"


def _path(rng: Random, _: int) -> str:
    place = rng.choice(("data", "work", "scratch", "home", "archive", "projects"))
    return f"/{place}{rng.randint(1, 99)}"


WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
VALUES: Final[dict[ValueKind, Callable[[Random, int], str]]] = {
    "hours": _hours,
    "memory": lambda rng, number: f"{number} GB",
    "quota": lambda rng, number: f"{number} {rng.choice(('GB', 'TB'))}",
    "nodes": lambda rng, number: f"{number} nodes",
    "days": lambda rng, number: f"{number} days",
    "jobs": lambda rng, number: f"{number} jobs",
    "seats": lambda rng, number: f"{number} seats",
    "people": lambda rng, number: f"{number} people",
    "gpus": lambda rng, number: f"{rng.randint(2, 64)} GPUs",
    "person": lambda rng, number: f"{rng.choice(FIRST)} {rng.choice(LAST)}",
    "owner": lambda rng, number: f"the {rng.choice(ENTITIES)} team",
    "path": _path,
    "version": lambda rng, number: f"{rng.randint(1, 30)}.{rng.randint(0, 20)}",
    "room": lambda rng, number: f"room {_number(rng, 3)}",
    "extension": lambda rng, number: f"extension {_number(rng, 3)}",
    "port": lambda rng, number: f"port {_number(rng, 4)}",
    "weekday": lambda rng, number: rng.choice(WEEKDAYS),
}
"""How a value of each kind is drawn; the number has one to three digits."""


def _value(rng: Random, kind: ValueKind) -> str:
    """A value of a kind, before the split is looked at."""
    return VALUES[kind](rng, _number(rng, rng.choice((1, 2, 2, 3))))


def draw_value(rng: Random, entity: str, attribute: Attribute, split: Split) -> str:
    """A value whose pairing with the entity belongs to the split."""
    for _ in range(200):
        value = _value(rng, attribute.value)
        if split_of(entity, value) == split and entity not in value.split():
            return value
    return ""


ONSETS: Final = (*"bcdfghjklmnprstvwz", "br", "cl", "ch", "gr", "pl", "qu", "sh", "st", "th", "tr")
VOWELS: Final = (*"aeiouaeiouy", "ea", "oo", "ai")
CODAS: Final = ("", "", "", "", *"lmnrstx", "ck", "nd", "ng", "st")


def _invented(rng: Random) -> str:
    """A made-up word of two or three syllables, such as `tamorust`."""
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((2, 2, 3))))


def draw_name(rng: Random, style: Style) -> str:
    """A name such as `willow`, `willow-gpu` or `tamorust`."""
    if rng.random() < style.invented:
        return _invented(rng)
    name = rng.choice(style.names)
    return f"{name}-{rng.choice(SUFFIXES)}" if rng.random() < style.suffixed else name


def _facts_of(rng: Random, entity: str, kind: Kind, count: int, split: Split, order: list[Attribute]) -> list[Fact]:
    """Up to `count` different facts of one entity, the first of its kind in the order."""
    picked = [a for a in order if a.kind == kind][:count]
    drawn = [Fact(entity, a, draw_value(rng, entity, a, split)) for a in picked]
    return [fact for fact in drawn if fact.value]


def _entities(rng: Random, count: int, style: Style) -> dict[str, Kind]:
    """Names with their kinds; half of the passages keep to one kind, which makes them harder."""
    shared: Kind | None = rng.choice(KINDS) if rng.random() < 0.3 + style.rivals else None
    kinds: dict[str, Kind] = {}
    while len(kinds) < count:
        kind = rng.choice(KINDS) if shared is None else shared
        kinds[draw_name(rng, style)] = kind
    return kinds


def _sentence(rng: Random, facts: list[Fact], kind: Kind, style: Style, again: bool) -> Line:
    """One sentence that tells one or two facts of one entity; `again`: the one before did too."""
    entity = facts[0].entity
    subject = rng.choice(SUBJECTS[kind]).format(e=entity)
    fronted = facts[0].attribute.fronted
    if len(facts) == 1 and fronted and rng.random() < style.fronted:
        inner = SUBJECTS[kind][0].format(e=entity).replace("The", "the").replace("Our", "our")
        return Line(rng.choice(fronted).format(v=facts[0].value, s=inner), tuple(facts))
    if again and rng.random() < style.pronoun * 2:
        subject = "It"
    told = [rng.choice(f.attribute.predicates).format(v=f.value) for f in facts]
    return Line(f"{subject} {' and '.join(told)}.", tuple(facts))


def _sentences(rng: Random, facts: list[Fact], kind: Kind, style: Style) -> list[Line]:
    """The sentences about one entity, in which neighbouring facts may share a sentence."""
    lines: list[Line] = []
    rest = list(facts)
    while rest:
        take = 2 if len(rest) > 1 and rng.random() < style.merged else 1
        lines.append(_sentence(rng, rest[:take], kind, style, again=bool(lines)))
        rest = rest[take:]
    return lines


def draw_passage(rng: Random, count: int, split: Split, style: Style) -> Passage:
    """A passage that tells `count` facts, or rarely fewer but at least one, of one to four entities."""
    while not (passage := _draw_passage(rng, count, split, style)).facts:
        pass
    return passage


def _draw_passage(rng: Random, count: int, split: Split, style: Style) -> Passage:
    entities = rng.randint(1 if count < 3 else 2, min(count, 4))
    kinds = _entities(rng, entities, style)
    owners = sorted([*kinds, *rng.choices(list(kinds), k=count - entities)])
    facts: list[Fact] = []
    blocks: list[list[Line]] = []
    order = rng.sample(ATTRIBUTES, len(ATTRIBUTES))
    rivals = rng.random() < style.rivals
    for entity, group in groupby(owners):
        if not rivals:
            order = rng.sample(ATTRIBUTES, len(ATTRIBUTES))
        told = _facts_of(rng, entity, kinds[entity], len(list(group)), split, order)
        facts += told
        blocks.append(_sentences(rng, told, kinds[entity], style))
    kinds = {fact.entity: kinds[fact.entity] for fact in facts}
    rng.shuffle(blocks)
    lines = [line for block in blocks for line in block]
    if rng.random() < style.filler:
        lines.insert(rng.randint(0, len(lines)), Line(rng.choice(FILLERS)))
    return Passage(tuple(lines), tuple(facts), kinds)
