"""Which prompts a measurement asks, so that nothing helps it that an earlier one left in a cache."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from loadtests.client.pace import arrivals
from loadtests.client.prompts import WORDS_PER_TOKEN, Prompt, RandomWorkload, Workload, workload_of
from loadtests.client.sharegpt import MOST_TOKENS
from loadtests.records import Calibration, Kind, Plan, Point, Side

MOST_REQUESTS = 100_000
WARM_USERS = 32
"""Of a warm-up before an open loop, at most."""
BULK_ITEMS = 16
"""Requests in one bulk call."""
ROOM = 0.75
"""Conversations of a file are so much of a model's context at most: their tokens are a guess from their words."""


@dataclass(frozen=True)
class Questions:
    """The prompts of one repeat: `warm` of them before it, then at most `count`.

    The same repeat has the same on every side; other repeats and points, and the warm-up, have others, as far as the
    workload goes.
    """

    workload: Workload
    first: int
    users: int
    warm: int
    count: int
    dues_s: tuple[float, ...] | None = None
    """Open loop: when each is sent."""

    def warming(self) -> Iterator[Prompt]:
        return (self.workload.prompt(self.first + number) for number in range(self.warm))

    def measured(self) -> Iterator[Prompt]:
        begin, count = self.first + self.warm, self.count if self.dues_s is None else len(self.dues_s)
        return (self.workload.prompt(begin + number) for number in range(count))

    @property
    def lengths(self) -> tuple[int | None, int | None]:
        """Tokens of every prompt and of every answer, where they are all the same."""
        if not isinstance(self.workload, RandomWorkload):
            return None, None
        inputs, outputs = self.workload.inputs, self.workload.outputs
        return inputs.always, outputs.always

    @property
    def notices(self) -> list[str]:
        size, needed = self.workload.size, self.first + self.warm + self.count
        if size is None or size >= needed:
            return []
        before = " of this and the repeats before it" if self.first else ""
        return [
            f"the workload has {size} prompts for {needed} requests{before}: some are asked again, which a cache may "
            "know"
        ]


def questions_of(point: Point, plan: Plan, repeat: int, calibration: Calibration | None) -> Questions:
    """Raises WorkloadError."""
    words = calibration.words_per_token if calibration else WORDS_PER_TOKEN
    template = calibration.template_tokens if calibration else 0
    users = point.concurrency or min(WARM_USERS, math.ceil(point.rate or 1))
    warm, count = plan.warmup_requests * users, requests_of(point, plan)
    return Questions(
        workload=workload_of(
            plan.workload,
            point,
            plan.seed,
            words,
            template_tokens=template,
            most_tokens=_most_tokens(plan.sides, point.model, template),
        ),
        first=repeat * (warm + count),
        users=users,
        warm=warm,
        count=count,
        dues_s=None if point.rate is None else _dues(point.rate, plan, repeat, count),
    )


def requests_of(point: Point, plan: Plan) -> int:
    """How many requests a measurement has: closed loop, its number; open loop, at most, for arrivals are random."""
    if point.rate is not None:
        mean = point.rate * plan.max_seconds
        return min(MOST_REQUESTS, math.ceil(mean + 6 * math.sqrt(mean)) + 16)
    each = plan.requests_per_user
    if point.kind is Kind.BULK:
        each = BULK_ITEMS * math.ceil(each / BULK_ITEMS)  # whole calls, at least one of every user
    return max(plan.min_requests, each * (point.concurrency or 1))


def _most_tokens(sides: Iterable[Side], model: str, template_tokens: int) -> int:
    """Of a conversation, so that every side takes it: all of them are asked the same."""
    contexts = [side.contexts[model] for side in sides if model in side.contexts]
    return min([MOST_TOKENS, *(int(ROOM * each) - template_tokens for each in contexts)])


def _dues(rate: float, plan: Plan, repeat: int, count: int) -> tuple[float, ...]:
    return tuple(arrivals(rate, plan.max_seconds, (plan.seed % 2**32, repeat), count))
