"""What is asked: seeded prompts with given token lengths, or the conversations of a ShareGPT-format file.

A workload is a text:

    random                              random words, each prompt and answer as long as the point says
    random:uniform[:SPREAD]             lengths from (1 - SPREAD) to (1 + SPREAD) times the point's; SPREAD 0.5 if unset
    random:lognormal[:SPREAD]           the point's lengths are the mean, SPREAD the sigma of the logarithm (0.5);
                                        at most four times the mean
    random:INPUT,OUTPUT                 the two apart, each as above: random:lognormal:0.8,fixed
    PATH or sharegpt:PATH               a file (sharegpt.py); the point's lengths are not used
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from loadtests.client.sharegpt import MOST_TOKENS, Conversation, WorkloadError, conversations
from loadtests.client.words import WORDS
from loadtests.records import Point

__all__ = [
    "WORDS_PER_TOKEN",
    "Lengths",
    "Prompt",
    "RandomWorkload",
    "Workload",
    "WorkloadError",
    "is_file",
    "workload_of",
]

WORDS_PER_TOKEN = 0.85
"""Of the words here, where an endpoint does not tell: one token each, and a few for the full stops."""
WORDS_PER_SENTENCE = 12
DISTRIBUTIONS = ("fixed", "uniform", "lognormal")
CAP = 4
"""Times the mean; no longer length is drawn."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, and how many tokens its answer shall have."""

    text: str
    output_tokens: int


class Workload(Protocol):
    """Prompts by number. The same number is the same prompt, in every process that made it from the same arguments."""

    @property
    def size(self) -> int | None:
        """How many different prompts there are; None: no end of them."""

    def prompt(self, index: int) -> Prompt:
        """`index` from 0 on."""


@dataclass(frozen=True)
class Lengths:
    """A distribution of token counts, at least one token each."""

    mean: int
    distribution: str = "fixed"
    spread: float = 0.5

    def draw(self, random: np.random.Generator) -> int:
        return max(1, round(self._draw(random)))

    @property
    def always(self) -> int | None:
        """The one length that is drawn, if there is but one."""
        return self.mean if self.distribution == "fixed" else None

    def _draw(self, random: np.random.Generator) -> float:
        if self.distribution == "uniform":
            return float(random.uniform(self.mean * (1 - self.spread), self.mean * (1 + self.spread)))
        if self.distribution == "lognormal":
            drawn = float(random.lognormal(math.log(self.mean) - self.spread**2 / 2, self.spread))
            return min(drawn, CAP * self.mean)
        return self.mean

    @classmethod
    def of(cls, text: str, mean: int) -> Lengths:
        """From DISTRIBUTION[:SPREAD]. Raises WorkloadError."""
        name, colon, spread = text.partition(":")
        if name not in DISTRIBUTIONS:
            known = ", ".join(DISTRIBUTIONS)
            raise WorkloadError(f"workload: {name!r} is no distribution of lengths; there are {known}.")
        if not colon:
            return cls(mean, name)
        return cls(mean, name, _spread(name, spread))


def _spread(name: str, text: str) -> float:
    most = {"fixed": 0.0, "uniform": 1.0, "lognormal": 2.0}[name]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if name == "fixed" or not 0 <= number <= most:
        what = "has no spread" if name == "fixed" else f"has a spread from 0 to {most:g}"
        raise WorkloadError(f"workload: {name} {what}, not {text!r}.")
    return number


@dataclass(frozen=True)
class RandomWorkload:
    """Sentences of random words. No two prompts begin alike, so that no prefix cache helps.

    `template_tokens`: what the chat template adds to every prompt; it counts as part of the prompt's length.
    """

    seed: Sequence[int]
    inputs: Lengths
    outputs: Lengths
    words_per_token: float = WORDS_PER_TOKEN
    template_tokens: int = 0
    size: int | None = None

    def prompt(self, index: int) -> Prompt:
        random = np.random.default_rng([*self.seed, index])
        tokens, output_tokens = self.inputs.draw(random), self.outputs.draw(random)
        count = max(1, round((tokens - self.template_tokens) * self.words_per_token))
        return Prompt(sentences(random, count), output_tokens)


@dataclass(frozen=True)
class FileWorkload:
    """Conversations in a seeded order, from the start again when all were asked."""

    conversations: Sequence[Conversation]
    order: Sequence[int]

    @property
    def size(self) -> int | None:
        return len(self.conversations)

    def prompt(self, index: int) -> Prompt:
        found = self.conversations[self.order[index % len(self.order)]]
        return Prompt(found.prompt, found.output_tokens)


def workload_of(
    workload: str,
    point: Point,
    seed: int,
    words_per_token: float = WORDS_PER_TOKEN,
    *,
    template_tokens: int = 0,
    most_tokens: int = MOST_TOKENS,
) -> Workload:
    """The workload that a text names (above), for one point. Other points of the same seed get other prompts.

    `most_tokens`: no conversation of a file is longer, question and answer together. Raises WorkloadError.
    """
    mixed = (seed % 2**32, *_marks(point))
    kind, _, rest = workload.strip().partition(":")
    if not is_file(workload):
        inputs, outputs = _lengths(rest or "fixed", point)
        return RandomWorkload(mixed, inputs, outputs, words_per_token, template_tokens)
    path = Path(rest if kind == "sharegpt" else workload.strip()).expanduser()
    found = conversations(path, seed, words_per_token, most_tokens)
    return FileWorkload(found, np.random.default_rng(mixed).permutation(len(found)).tolist())


def is_file(workload: str) -> bool:
    """Whether a workload is a file's conversations, which have lengths of their own."""
    return workload.strip().partition(":")[0] != "random"


def sentences(random: np.random.Generator, count: int) -> str:
    """So many random words, with capitals and full stops."""
    words = [WORDS[index] for index in random.integers(len(WORDS), size=count)]
    starts = range(0, count, WORDS_PER_SENTENCE)
    return " ".join(" ".join(words[start : start + WORDS_PER_SENTENCE]).capitalize() + "." for start in starts)


def _lengths(text: str, point: Point) -> tuple[Lengths, Lengths]:
    inputs, _, outputs = text.partition(",")
    return Lengths.of(inputs, point.input_tokens), Lengths.of(outputs or inputs, point.output_tokens)


def _marks(point: Point) -> tuple[int, ...]:
    """Numbers that differ between the points of a sweep."""
    hard = point.concurrency or round(1_000_000 * (point.rate or 0))
    return (hard, point.input_tokens, point.output_tokens, zlib.crc32(f"{point.kind}/{point.model}".encode()))
