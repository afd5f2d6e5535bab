"""What a run comes to: figures of each contestant, and each strategy against one model's single answer and its samples.

At equal tokens a baseline is read off between its two runs that cost the nearest less and the nearest more, task by
task with the same weight; the greedy single answer stands for its run of one sample. A bootstrap of few tasks is too
narrow, down to no width where all differ alike, so that a standing other than level takes an exact test, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np

from app.evaluation.contestants import Contestant, Seat
from app.evaluation.outcomes import Outcome
from app.evaluation.statistics import EXACT, Hits, Interval, mcnemar, paired_bootstrap, wilson
from app.evaluation.tasks import Task
from deployments.tribunal.config import Strategy

Reach = Literal["between", "cheapest", "dearest"]
"""Whether the tokens lie between two runs, or below the cheapest or above the dearest, which then stands in."""
Standing = Literal["beats", "ahead", "level", "loses"]
MOST_P = 0.05
"""McNemar's p must be less than this for any standing but level."""
LEAST_DISCORDANT = 6
"""Where there is no such test, so many tasks must differ: 5 that all differ alike have a p of 0.0625."""
MANY_TASKS = 30
"""Fewer are too few to tell much, and it is said."""


@dataclass(frozen=True)
class Ran:
    """A contestant's outcomes, in the order of the tasks. Tokens, calls and seconds are of what did not fail."""

    contestant: Contestant
    outcomes: tuple[Outcome, ...]

    @property
    def label(self) -> str:
        return self.contestant.label

    @property
    def seat(self) -> Seat:
        """Of a contestant that is one member."""
        assert self.contestant.seat is not None
        return self.contestant.seat

    @cached_property
    def hits(self) -> Hits:
        return np.array([outcome.right for outcome in self.outcomes], dtype=float)

    @property
    def count(self) -> int:
        return len(self.outcomes)

    @property
    def right(self) -> int:
        return sum(outcome.right for outcome in self.outcomes)

    @property
    def accuracy(self) -> float:
        return self.right / self.count

    @property
    def interval(self) -> Interval:
        return wilson(self.right, self.count)

    @property
    def failed(self) -> int:
        return sum(outcome.failed is not None for outcome in self.outcomes)

    @property
    def absent(self) -> int:
        """Answers for which a member was missing."""
        return sum(outcome.absent > 0 for outcome in self.outcomes)

    @property
    def unparsed(self) -> int:
        return sum(outcome.unparsed for outcome in self.outcomes)

    @property
    def mean_tokens(self) -> float:
        return _mean([outcome.tokens for outcome in self.answered])

    @property
    def mean_calls(self) -> float:
        return _mean([outcome.calls for outcome in self.answered])

    @property
    def accuracy_per_thousand(self) -> float:
        """Right answers for each thousand tokens."""
        return 1000 * self.accuracy / self.mean_tokens if self.mean_tokens else 0.0

    def seconds(self, percentile: float) -> float:
        seconds = [outcome.seconds for outcome in self.answered]
        return float(np.percentile(seconds, percentile)) if seconds else 0.0

    @cached_property
    def answered(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failed is None]

    def by_tag(self, tasks: Sequence[Task]) -> dict[str, tuple[int, int]]:
        """Tag -> how many of its tasks are right, and how many there are."""
        found: dict[str, tuple[int, int]] = {}
        for task, outcome in zip(tasks, self.outcomes, strict=True):
            for tag in task.tags:
                right, count = found.get(tag, (0, 0))
                found[tag] = right + outcome.right, count + 1
        return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass(frozen=True)
class Evaluation:
    """best: the member whose single answers were right most often; the samples are its. left_out: see Panel."""

    singles: tuple[Ran, ...]
    best: Ran
    deliberated: tuple[Ran, ...]
    sampled: Mapping[Strategy, tuple[Ran, ...]]
    left_out: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[Ran, ...]:
        return (*self.singles, *self.deliberated, *(ran for runs in self.sampled.values() for ran in runs))


def best_of(singles: Sequence[Ran]) -> Ran:
    """The most accurate; of those the one with the fewest tokens, and one that never answered last."""
    return max(singles, key=lambda ran: (ran.accuracy, bool(ran.answered), -ran.mean_tokens))


@dataclass(frozen=True)
class Rival:
    """A baseline at the tokens of a strategy. difference: the strategy's accuracy less the baseline's, paired.

    discordant: tasks in which the two differ by at least half. p: McNemar's, where the baseline is one run.
    """

    baseline: str
    accuracy: float
    tokens: float
    runs: tuple[str, ...]
    weight: float
    reach: Reach
    difference: float
    interval: Interval
    discordant: int
    p: float | None
    few: bool

    @property
    def standing(self) -> Standing:
        sure = self.discordant >= LEAST_DISCORDANT if self.p is None else self.p < MOST_P
        return _standing(self.interval, sure)


@dataclass(frozen=True)
class Comparison:
    """A strategy against the best single member, and against the baselines at equal tokens."""

    ran: Ran
    best: Ran
    difference: float
    interval: Interval
    p: float
    rivals: tuple[Rival, ...]

    @property
    def standing(self) -> Standing:
        """Beating it takes both: more than its interval reaches to, and a paired difference that is no chance."""
        standing = _standing(self.interval, self.p < MOST_P)
        return "beats" if standing == "ahead" and self.ran.accuracy > self.best.interval.high else standing

    @property
    def few(self) -> bool:
        return self.ran.count < MANY_TASKS


def _standing(interval: Interval, sure: bool) -> Standing:
    if not (sure and interval.excludes_zero):
        return "level"
    return "ahead" if interval.low > 0 else "loses"


def compared(evaluation: Evaluation, seed: int = 0) -> tuple[Comparison, ...]:
    """Every strategy of several members against the rest."""
    return tuple(_compared(ran, evaluation, seed) for ran in evaluation.deliberated)


def _compared(ran: Ran, evaluation: Evaluation, seed: int) -> Comparison:
    best = evaluation.best
    curves = {"single": [best], **{name: [best, *runs] for name, runs in evaluation.sampled.items()}}
    rivals = tuple(_rival(ran, name, runs, seed) for name, runs in curves.items() if _has_tokens(ran, runs))
    interval = paired_bootstrap(ran.hits, best.hits, seed)
    p = mcnemar([o.right for o in ran.outcomes], [o.right for o in best.outcomes])
    return Comparison(ran, best, ran.accuracy - best.accuracy, interval, p, rivals)


def _has_tokens(ran: Ran, runs: Sequence[Ran]) -> bool:
    """Whether there are tokens to compare at: of what failed altogether nobody knows any."""
    return bool(ran.answered) and any(each.answered for each in runs)


def _rival(ran: Ran, baseline: str, runs: Sequence[Ran], seed: int) -> Rival:
    lower, upper, weight, reach = neighbours(runs, ran.mean_tokens)
    hits = (1 - weight) * lower.hits + weight * upper.hits
    tokens = (1 - weight) * lower.mean_tokens + weight * upper.mean_tokens
    labels = (lower.label,) if lower is upper else (lower.label, upper.label)
    accuracy = float(hits.mean())
    interval = paired_bootstrap(ran.hits, hits, seed)
    discordant, p = _discord(ran.hits, hits)
    few = ran.count < MANY_TASKS
    return Rival(
        baseline, accuracy, tokens, labels, weight, reach, ran.accuracy - accuracy, interval, discordant, p, few
    )


def _discord(first: Hits, second: Hits) -> tuple[int, float | None]:
    """How many tasks differ by at least half, and McNemar's p unless the second is between two runs."""
    mixed = np.round(second, EXACT)
    discordant = int((np.abs(np.round(first - mixed, EXACT)) >= 0.5).sum())
    whole = bool(np.isin(mixed, (0.0, 1.0)).all())
    return discordant, mcnemar((first > 0.5).tolist(), (mixed > 0.5).tolist()) if whole else None


def neighbours(runs: Sequence[Ran], tokens: float) -> tuple[Ran, Ran, float, Reach]:
    """The runs that cost the nearest less and the nearest more, the weight of the second, and whether it is so.

    Runs without any answer are left out: that they cost nothing says nothing.
    """
    ordered = sorted((ran for ran in runs if ran.answered), key=lambda ran: ran.mean_tokens)
    if tokens < ordered[0].mean_tokens:
        return ordered[0], ordered[0], 0.0, "cheapest"
    for lower, upper in pairwise(ordered):
        if lower.mean_tokens <= tokens <= upper.mean_tokens and lower.mean_tokens < upper.mean_tokens:
            weight = (tokens - lower.mean_tokens) / (upper.mean_tokens - lower.mean_tokens)
            return lower, upper, weight, "between"
    last = ordered[-1]
    return last, last, 0.0, "between" if tokens == last.mean_tokens else "dearest"
