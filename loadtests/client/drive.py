"""One measurement: a point, asked of one endpoint once, warm-up apart."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import aiohttp

from loadtests.client import remarks
from loadtests.client.ask import ChatAsker
from loadtests.client.clock import Clock, ClockWatch, Stopwatch
from loadtests.client.endpoint import calibrate
from loadtests.client.engine import EngineWatch
from loadtests.client.exchange import hiding, open_session
from loadtests.client.other_kinds import BulkAsker, WholeAsker
from loadtests.client.pace import Body, Pace, Sender, unanswered
from loadtests.client.prompts import Prompt
from loadtests.client.questions import BULK_ITEMS, Questions, questions_of, requests_of
from loadtests.records import Calibration, Driven, Kind, Plan, Point, Sample, Side

__all__ = ["drive", "requests_of"]

TOKENS_AHEAD = 4_000_000
"""Requests are made ahead if they have no more tokens together; else each when it is sent."""
SHORTEST_S = 1e-9
"""So that a rate can be computed whatever the clock does."""
CLOCK = Clock()


async def drive(
    point: Point, plan: Plan, side: Side, repeat: int, *, key: str | None = None, clock: Clock = CLOCK
) -> Driven:
    """Warm up, ask, and bring back the samples.

    The same repeat on another side gets the same prompts, if plan.calibrations has the model or both tell alike how
    their tokens are counted; other repeats get others. After plan.max_seconds no request begins; those under way have a
    grace (Pace), and what is cut off then is a timeout. A warm-up without any answer is all there is: nothing is
    measured after it. Raises WorkloadError for a workload that cannot be had, and nothing for what an endpoint does.
    """
    with hiding(key):
        return await _drive(point, plan, side, repeat, key, clock)


async def _drive(point: Point, plan: Plan, side: Side, repeat: int, key: str | None, clock: Clock) -> Driven:
    watch, began_at = ClockWatch(clock), clock.stamp()
    calibration = await _calibration(point, plan, side, key)
    questions = questions_of(point, plan, repeat, calibration)
    async with open_session(key, plan.timeout_s, side.certificate) as session:
        load = _Load(point, plan, side, session, clock)
        warmed = await load.put(questions.warming(), questions.warm, questions.users)
        about_it = remarks.on_warm_up(warmed, questions.warm)
        if unanswered(warmed):
            notices = (*load.notices, *about_it, *remarks.on_silence(), *watch.notices())
            return Driven(tuple(warmed), _window_s(warmed), began_at, None, notices)
        load.notices = [*questions.notices, *about_it]
        model = point.model if point.kind in remarks.ONE_MODEL else None
        async with EngineWatch(side.url, model, key, side.certificate) as engine:
            began_at, (samples, seconds) = clock.stamp(), await load.measure(questions)
    if calibration is None and point.kind in remarks.ONE_MODEL:
        load.notices.append("it is not told how many tokens a prompt has: lengths are from words, about")
    if point.kind in remarks.ONE_MODEL:
        load.notices += remarks.on_cache(engine.figures, questions.workload, len(samples))
    notices = (*load.notices, *engine.notices, *watch.notices())
    return Driven(tuple(samples), seconds, began_at, engine.figures, notices)


async def _calibration(point: Point, plan: Plan, side: Side, key: str | None) -> Calibration | None:
    if point.kind not in remarks.ONE_MODEL or point.model in plan.calibrations:
        return plan.calibrations.get(point.model)
    return await calibrate(side, point.model, key=key)


@dataclass
class _Load:
    """Puts requests on one endpoint."""

    point: Point
    plan: Plan
    side: Side
    session: aiohttp.ClientSession
    clock: Clock
    notices: list[str] = field(default_factory=list)

    async def measure(self, questions: Questions) -> tuple[list[Sample], float]:
        """The samples, and the seconds from the first that was due to the last end."""
        began, busy = self.clock.monotonic(), time.process_time()
        gc.freeze()  # what is there already is not looked through again and again, which would pause the client
        try:
            samples = await self.put(questions.measured(), questions.count, questions.users, questions.dues_s)
        finally:
            gc.unfreeze()
        wall_s = self.clock.monotonic() - began
        self.notices += remarks.on_client(time.process_time() - busy, wall_s)
        self.notices += remarks.on_number(samples, self.point, self.plan)
        self.notices += remarks.on_answers(samples, self.point.kind, *questions.lengths)
        return samples, _window_s(samples) if samples else wall_s

    async def put(
        self, prompts: Iterator[Prompt], count: int, users: int, dues_s: tuple[float, ...] | None = None
    ) -> list[Sample]:
        """Open loop if it is told when each is due."""
        now = Stopwatch(self.clock)
        given = self.session, self.side, self.point, self.plan.temperature, now
        if self.point.kind is Kind.BULK:
            return await self._sent(BulkAsker(*given), list(calls_of(prompts)), now, users, None)
        asker = (ChatAsker if self.point.kind is Kind.CHAT else WholeAsker)(*given)
        bodies: Iterable[bytes] = (asker.body(prompt) for prompt in prompts)
        if count * (self.point.input_tokens + 1) <= TOKENS_AHEAD:
            bodies = list(bodies)
        samples = await self._sent(asker, bodies, now, users, dues_s)
        self.notices += asker.notices
        return samples

    async def _sent(
        self, sender: Sender[Body], bodies: Iterable[Body], now: Stopwatch, users: int, dues_s: Sequence[float] | None
    ) -> list[Sample]:
        pace = Pace(sender, now, self.plan.max_seconds)
        now.start()
        await (pace.closed(bodies, users) if dues_s is None else pace.open(bodies, dues_s))
        self.notices += [
            *remarks.on_unsent(pace.gave_up, pace.unsent),
            *remarks.on_end(pace.cut, pace.cut_silent, now()),
        ]
        return pace.samples


def calls_of(prompts: Iterable[Prompt]) -> Iterator[list[Prompt]]:
    """The prompts of each bulk call."""
    left = iter(prompts)
    while call := list(islice(left, BULK_ITEMS)):
        yield call


def _window_s(samples: Sequence[Sample]) -> float:
    """From the first that was due to the last end."""
    return max(max(each.ended_s for each in samples) - min(each.due_s for each in samples), SHORTEST_S)
