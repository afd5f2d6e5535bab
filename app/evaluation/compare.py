"""What a run comes to: figures of each contestant, and each strategy against one model's single answer and its samples.

At equal tokens a baseline is read off between its two runs that cost the nearest less and the nearest more, task by
task with the same weight; a single answer is its run of one sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np

from app.evaluation.contestants import Contestant
from app.evaluation.outcomes import Outcome
from app.evaluation.statistics import Hits, Interval, mcnemar, paired_bootstrap, wilson
from app.evaluation.tasks import Task
from deployments.tribunal.config import Strategy

Reach = Literal["between", "cheapest", "dearest"]
"""Whether the tokens lie between two runs, or below the cheapest or above the dearest, which then stands in."""
Standing = Literal["beats", "ahead", "level", "loses"]


@dataclass(frozen=True)
class Ran:
    """A contestant's outcomes, in the order of the tasks. Tokens, calls and seconds are of what did not fail."""

    contestant: Contestant
    outcomes: tuple[Outcome, ...]

    @property
    def label(self) -> str:
        return self.contestant.label

    @property
    def model(self) -> str:
        """Of a contestant that is one model."""
        assert self.contestant.model is not None
        return self.contestant.model

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
    def unparsed(self) -> int:
        return sum(outcome.unparsed for outcome in self.outcomes)

    @property
    def mean_tokens(self) -> float:
        return _mean([outcome.tokens for outcome in self._answered])

    @property
    def mean_calls(self) -> float:
        return _mean([outcome.calls for outcome in self._answered])

    @property
    def accuracy_per_thousand(self) -> float:
        """Right answers for each thousand tokens."""
        return 1000 * self.accuracy / self.mean_tokens if self.mean_tokens else 0.0

    def seconds(self, percentile: float) -> float:
        seconds = [outcome.seconds for outcome in self._answered]
        return float(np.percentile(seconds, percentile)) if seconds else 0.0

    @cached_property
    def _answered(self) -> list[Outcome]:
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
    """best: the model whose single answers were right most often; the samples are its."""

    singles: tuple[Ran, ...]
    best: Ran
    deliberated: tuple[Ran, ...]
    sampled: Mapping[Strategy, tuple[Ran, ...]]

    @property
    def all(self) -> tuple[Ran, ...]:
        return (*self.singles, *self.deliberated, *(ran for runs in self.sampled.values() for ran in runs))


def best_of(singles: Sequence[Ran]) -> Ran:
    """The most accurate; of those the one with the fewest tokens."""
    return max(singles, key=lambda ran: (ran.accuracy, -ran.mean_tokens))


@dataclass(frozen=True)
class Rival:
    """A baseline at the tokens of a strategy. difference: the strategy's accuracy less the baseline's, paired."""

    baseline: str
    accuracy: float
    tokens: float
    runs: tuple[str, ...]
    weight: float
    reach: Reach
    difference: float
    interval: Interval

    @property
    def standing(self) -> Standing:
        return _standing(self.interval)


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
        beats = self.ran.accuracy > self.best.interval.high and self.interval.low > 0
        return "beats" if beats else _standing(self.interval)


def _standing(interval: Interval) -> Standing:
    if not interval.excludes_zero:
        return "level"
    return "ahead" if interval.low > 0 else "loses"


def compared(evaluation: Evaluation, seed: int = 0) -> tuple[Comparison, ...]:
    """Every strategy of several members against the rest."""
    return tuple(_compared(ran, evaluation, seed) for ran in evaluation.deliberated)


def _compared(ran: Ran, evaluation: Evaluation, seed: int) -> Comparison:
    best = evaluation.best
    curves = {"single": [best], **{name: [best, *runs] for name, runs in evaluation.sampled.items()}}
    rivals = tuple(_rival(ran, name, runs, seed) for name, runs in curves.items())
    interval = paired_bootstrap(ran.hits, best.hits, seed)
    p = mcnemar([o.right for o in ran.outcomes], [o.right for o in best.outcomes])
    return Comparison(ran, best, ran.accuracy - best.accuracy, interval, p, rivals)


def _rival(ran: Ran, baseline: str, runs: Sequence[Ran], seed: int) -> Rival:
    lower, upper, weight, reach = neighbours(runs, ran.mean_tokens)
    hits = (1 - weight) * lower.hits + weight * upper.hits
    tokens = (1 - weight) * lower.mean_tokens + weight * upper.mean_tokens
    labels = (lower.label,) if lower is upper else (lower.label, upper.label)
    accuracy = float(hits.mean())
    interval = paired_bootstrap(ran.hits, hits, seed)
    return Rival(baseline, accuracy, tokens, labels, weight, reach, ran.accuracy - accuracy, interval)


def neighbours(runs: Sequence[Ran], tokens: float) -> tuple[Ran, Ran, float, Reach]:
    """The runs that cost the nearest less and the nearest more, the weight of the second, and whether it is so."""
    ordered = sorted(runs, key=lambda ran: ran.mean_tokens)
    if tokens < ordered[0].mean_tokens:
        return ordered[0], ordered[0], 0.0, "cheapest"
    for lower, upper in pairwise(ordered):
        if lower.mean_tokens <= tokens <= upper.mean_tokens and lower.mean_tokens < upper.mean_tokens:
            weight = (tokens - lower.mean_tokens) / (upper.mean_tokens - lower.mean_tokens)
            return lower, upper, weight, "between"
    last = ordered[-1]
    return last, last, 0.0, "between" if tokens == last.mean_tokens else "dearest"
