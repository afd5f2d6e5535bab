"""The four tasks as chat conversations with reference answers.

A `Bundle` is one passage with many conversations about it. The passage (the trunk) is read once,
and every branch goes on from it alone, so that each branch is exactly a single-turn conversation:

    <|begin_of_text|>user: Passage: ...    <- trunk
    |- Question: ...   assistant: The time limit of willow is 48 hours.
    |- Question: ...   assistant: The owner of willow is not told in the passage.
    '- Draft: ...      assistant: The time limit of willow is 48 hours. The draft is not supported.
"""

from dataclasses import dataclass
from random import Random
from typing import Final, Literal, TypeAlias

from deployments.pocket import NOT_SUPPORTED, NOT_TOLD, SUPPORTED
from deployments.pocket.attributes import ATTRIBUTES, SUBJECTS, Attribute, Kind
from deployments.pocket.chat import draw_chat
from deployments.pocket.handbook import (
    Fact,
    Passage,
    Split,
    Style,
    draw_name,
    draw_passage,
    draw_value,
)

Task: TypeAlias = Literal["answer", "refuse", "judge", "chat", "ask_passage", "repeat"]

SYSTEMS = (
    "Answer from the passage.",
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer from the passage only.",
    "Answer the question from the context. If it is not told, say so.",
)
HEADS = (
    "Passage: ",
    "Passage: ",
    "Passage: ",
    "Passage:\n",
    "Context: ",
    "Context:\n",
    "Text: ",
    "",
)
ASKS = ("Question: {q}", "Question: {q}", "Question: {q}", "{q}")
FIRST_ASKS = ("Question: {q}\n\nPassage: {p}", "{q}\n\nPassage: {p}", "{q}\n\n{p}")
REPEAT = "Repeat the passage."
DRAFTS = ("Draft: {d}", "Draft: {d}", "Draft: {d}\n\nIs the draft supported by the passage?")


STANDARD: Final = Style()


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user says (after the trunk, in a first turn) and what the assistant must say."""

    task: Task
    prompt: str
    reference: str
    fact: Fact | None = None
    """What the reference tells from the passage."""
    draft: str = ""
    """The value that the prompt gives this fact, where it is a draft."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Conversations that share a beginning; `head` is empty where they share none. `passage`: what the head holds."""

    system: str
    head: str
    branches: tuple[tuple[Turn, ...], ...]
    passage: Passage | None = None

    def messages(self, branch: int) -> list[dict[str, str]]:
        """A branch as chat messages, without the last answer."""
        turns = self.branches[branch]
        said = [{"role": "system", "content": self.system}] if self.system else []
        for index, turn in enumerate(turns):
            start = self.head if index == 0 else ""
            said.append({"role": "user", "content": start + turn.prompt})
            said.append({"role": "assistant", "content": turn.reference})
        return said[:-1]


@dataclass(frozen=True, slots=True)
class Mix:
    """How a bundle is drawn; every share is a probability."""

    facts: tuple[int, ...] = (1, 2, 3, 4, 5)
    style: Style = STANDARD
    judge: float = 0.5
    refuse: float = 1.0
    """How often an untold fact is asked for, as a multiple of one in six questions."""
    plain: float = 0.6
    """Bundles in the main form: no system message, `Passage: `, `Question: `, `Draft: `."""
    question_first: float = 0.06
    several_turns: float = 0.05
    chat: float = 0.03
    repeat: float = 0.05
    """Passages that are to be said again word for word: the quickest lesson in copying."""
    asks: int = 4
    """The most questions on told facts of one passage."""


def named(rng: Random, entity: str, kind: Kind) -> str:
    """How a question names an entity: `willow` or `the willow partition`."""
    if rng.random() < 0.4:
        return entity
    return SUBJECTS[kind][0].format(e=entity).replace("The ", "the ")


def ask(rng: Random, entity: str, attribute: Attribute) -> str:
    return rng.choice(attribute.questions).format(e=named(rng, entity, attribute.kind))


def refusal(entity: str, attribute: Attribute) -> str:
    return f"The {attribute.noun} of {entity} is {NOT_TOLD}."


def untold(rng: Random, passage: Passage, style: Style) -> tuple[str, Attribute]:
    """An entity and an attribute that the passage does not tell of it; mostly a near miss."""
    told = {(fact.entity, fact.attribute.noun) for fact in passage.facts}
    neighbours = [
        (entity, fact.attribute)
        for entity, kind in passage.kinds.items()
        for fact in passage.facts
        if fact.attribute.kind == kind and (entity, fact.attribute.noun) not in told
    ]
    roll = rng.random()
    if neighbours and roll < 0.5:
        return rng.choice(neighbours)
    if roll < 0.75:
        entity, kind = rng.choice(list(passage.kinds.items()))
        rest = [a for a in ATTRIBUTES if a.kind == kind and (entity, a.noun) not in told]
        if rest:
            return entity, rng.choice(rest)
    while (entity := draw_name(rng, style)) in passage.kinds:
        pass
    return entity, rng.choice(passage.facts).attribute


def _wrong(rng: Random, fact: Fact, passage: Passage, split: Split) -> str:
    """A value that the fact does not have: a neighbour's of the same sort, else a fresh one."""
    same = [f.value for f in passage.facts if f.attribute.value == fact.attribute.value and f.value != fact.value]
    if same and rng.random() < 0.6:
        return rng.choice(same)
    while (value := draw_value(rng, fact.entity, fact.attribute, split)) == fact.value:
        if rng.random() < 0.05:
            return "none"
    return value or "none"


def judged(rng: Random, passage: Passage, mix: Mix, split: Split) -> Turn:
    """A draft to judge: right, wrong in its value, or about something that is not told.

    What the passage tells comes first and the verdict after it, so that the verdict can compare the two.
    """
    roll = rng.random()
    fact: Fact | None = None
    value = ""
    if roll < 0.2:
        entity, attribute = untold(rng, passage, mix.style)
        draft = Fact(entity, attribute, draw_value(rng, entity, attribute, split) or "none").answer()
        verdict = f"{refusal(entity, attribute)} {NOT_SUPPORTED}"
    else:
        fact = rng.choice(passage.facts)
        value = fact.value
        draft, verdict = fact.answer(), f"{fact.answer()} {SUPPORTED}"
        if roll < 0.6:
            value = _wrong(rng, fact, passage, split)
            draft = Fact(fact.entity, fact.attribute, value).answer()
            verdict = f"{fact.answer()} {NOT_SUPPORTED}"
    form = DRAFTS[0] if rng.random() < mix.plain else rng.choice(DRAFTS)
    return Turn("judge", form.format(d=draft), verdict, fact, value)


def turns_about(rng: Random, passage: Passage, mix: Mix, split: Split) -> list[Turn]:
    """The turns about a passage: told facts, about one in six untold, and drafts."""
    facts = rng.sample(passage.facts, min(mix.asks, len(passage.facts)))
    form = ASKS[0] if rng.random() < mix.plain else rng.choice(ASKS)
    turns = [Turn("answer", form.format(q=ask(rng, f.entity, f.attribute)), f.answer(), f) for f in facts]
    if rng.random() < mix.refuse * (0.25 + 0.1 * len(facts)):
        entity, attribute = untold(rng, passage, mix.style)
        question = form.format(q=ask(rng, entity, attribute))
        turns.append(Turn("refuse", question, refusal(entity, attribute)))
    while rng.random() < mix.judge and len(turns) < 7:
        turns.append(judged(rng, passage, mix, split))
    if rng.random() < mix.repeat:
        turns.append(Turn("repeat", REPEAT, passage.text))
    return turns


def _question_first(rng: Random, passage: Passage, turns: list[Turn], system: str) -> Bundle:
    asked = [t for t in turns if t.task in ("answer", "refuse")][:2]
    form = rng.choice(FIRST_ASKS)
    branches = [
        (
            Turn(
                t.task,
                form.format(q=t.prompt.removeprefix("Question: "), p=passage.text),
                t.reference,
            ),
        )
        for t in asked
    ]
    return Bundle(system, "", tuple(branches))


def draw_chats(rng: Random, mix: Mix, split: Split) -> Bundle:
    """Conversations without a passage."""
    branches = [(Turn("chat", *draw_chat(rng, split)),) for _ in range(4)]
    entity, attribute = draw_name(rng, mix.style), rng.choice(ATTRIBUTES)
    question = rng.choice(ASKS).format(q=ask(rng, entity, attribute))
    wish = f"Please give me a passage about {entity}."
    branches.append((Turn("ask_passage", question, wish),))
    return Bundle(rng.choice(("", "", SYSTEMS[1])), "", tuple(branches))


def draw_bundle(rng: Random, mix: Mix, split: Split) -> Bundle:
    """A bundle of the mix; nearly always a passage with its turns as single-turn branches."""
    if rng.random() < mix.chat:
        return draw_chats(rng, mix, split)
    passage = draw_passage(rng, rng.choice(mix.facts), split, mix.style)
    turns = turns_about(rng, passage, mix, split)
    plain = rng.random() < mix.plain
    system = "" if plain or rng.random() < 0.5 else rng.choice(SYSTEMS)
    roll = rng.random()
    if roll < mix.question_first:
        return _question_first(rng, passage, turns, system)
    head = f"{HEADS[0] if plain else rng.choice(HEADS)}{passage.text}\n\n"
    if roll < mix.question_first + mix.several_turns:
        rng.shuffle(turns)
        return Bundle(system, head, (tuple(turns),), passage)
    return Bundle(system, head, tuple((turn,) for turn in turns), passage)
