"""A run: every contestant over every task, a bounded number of questions at once, each outcome kept as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

from app.evaluation.checkers import is_right
from app.evaluation.compare import Evaluation, Ran, best_of
from app.evaluation.contestants import (
    BASELINES,
    DELIBERATING,
    Contestant,
    Panel,
    deliberating,
    sample_counts,
    sampling,
    single,
)
from app.evaluation.judge import Judge, Judged
from app.evaluation.outcomes import Journal, Outcome
from app.evaluation.service import Service
from app.evaluation.tasks import Task
from app.talk import RefusedError, UnreachableError
from deployments.tribunal.config import Strategy

FAILURES_IN_A_ROW = 10
"""More than these end a run: then it is the service that fails, and not the contestant."""


class Board(Protocol):
    """Shows how far a run is."""

    def begin(self, label: str, done: int, total: int) -> None: ...

    def advance(self) -> None: ...


@dataclass
class Runner:
    """Has contestants answer tasks. Failures are kept once something else succeeded, for those that end a run are no
    one's outcome: a later run asks them again."""

    service: Service
    journal: Journal
    tasks: Sequence[Task]
    board: Board
    judge: Judge | None = None
    seed: int = 0
    concurrency: int = 8

    def __post_init__(self) -> None:
        self._failed: list[Outcome] = []
        self._in_a_row = 0

    async def run(self, panel: Panel, contestant: Contestant) -> Ran:
        """The contestant's outcomes, of this run and of those before it. Raises what ended the run."""
        found = {task.id: self.journal.get(contestant.label, task.id) for task in self.tasks}
        open_tasks = iter([task for task in self.tasks if found[task.id] is None])
        kept = {task: outcome for task, outcome in found.items() if outcome is not None}
        self.board.begin(contestant.label, len(kept), len(self.tasks))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.concurrency):
                    group.create_task(self._work(panel, contestant, open_tasks, kept))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return Ran(contestant, tuple(kept[task.id] for task in self.tasks))

    def keep_failures(self) -> None:
        """The failures so far are outcomes."""
        self.journal.add(*self._failed)
        self._failed, self._in_a_row = [], 0

    async def _work(
        self, panel: Panel, contestant: Contestant, tasks: Iterator[Task], kept: dict[str, Outcome]
    ) -> None:
        for task in tasks:
            kept[task.id] = await self._outcome(panel, contestant, task)
            self.board.advance()

    async def _outcome(self, panel: Panel, contestant: Contestant, task: Task) -> Outcome:
        try:
            outcome = await self._asked(panel, contestant, task)
        except (RefusedError, UnreachableError) as error:
            self._in_a_row += 1
            if self._in_a_row > FAILURES_IN_A_ROW:
                raise
            outcome = Outcome(contestant.label, task.id, right=False, failed=str(error))
            self._failed.append(outcome)
            return outcome
        self.keep_failures()
        self.journal.add(outcome)
        return outcome

    async def _asked(self, panel: Panel, contestant: Contestant, task: Task) -> Outcome:
        seed = crc32(f"{self.seed}|{task.id}".encode()) >> 1
        reply = await self.service.tribunal(panel.tribunal, contestant.config, task.asked(), seed)
        judged = await self._judged(task, reply.answer)
        return Outcome(
            contestant.label, task.id, judged.passes, reply.answer, reply.tokens, reply.calls,
            round(reply.seconds, 4), reply.chosen_by, reply.stopped, reply.absent, unparsed=judged.unparsed,
        )  # fmt: skip

    async def _judged(self, task: Task, answer: str) -> Judged:
        if task.checker != "rubric":
            return Judged(is_right(task, answer))
        if self.judge is None:
            raise ValueError(f"the task {task.id} needs a judge")
        return await self.judge.judge(task, answer)


async def evaluate(runner: Runner, panel: Panel, strategies: Sequence[Strategy], most_samples: int) -> Evaluation:
    """Every member alone, then the strategies of several, then the best one's samples up to what those cost."""
    singles = [await runner.run(panel, single(seat)) for seat in panel.seats]
    best = best_of(singles)
    wanted = [strategy for strategy in strategies if strategy in DELIBERATING]
    deliberated = [await runner.run(panel, deliberating(strategy)) for strategy in wanted]
    enough = max((ran.mean_tokens for ran in deliberated), default=float("inf"))
    sampled = {
        strategy: [ran async for ran in _grown(runner, panel, strategy, best, enough, most_samples)]
        for strategy in BASELINES
        if strategy in strategies
    }
    runner.keep_failures()
    samples = {name: tuple(runs) for name, runs in sampled.items()}
    return Evaluation(tuple(singles), best, tuple(deliberated), samples, panel.left_out)


async def _grown(
    runner: Runner, panel: Panel, strategy: Strategy, best: Ran, enough: float, most_samples: int
) -> AsyncIterator[Ran]:
    """More and more samples, until their mean tokens reach `enough`."""
    for samples in sample_counts(most_samples):
        ran = await runner.run(panel, sampling(strategy, best.seat, samples))
        yield ran
        if ran.mean_tokens >= enough:
            return
