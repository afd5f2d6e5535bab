"""Measures a plan into a folder: every point on every side in turn, and ends with what it measured whatever happens."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from loadtests.client.drive import drive as drive_endpoint
from loadtests.client.pace import LOST, unanswered
from loadtests.records import (
    Aggregate,
    Driven,
    Fault,
    Interval,
    Limits,
    Machine,
    Measurement,
    Plan,
    Point,
    Run,
    RunRecord,
    Side,
)
from loadtests.sweep.aggregate import aggregate, throughput
from loadtests.sweep.board import Board, board_of
from loadtests.sweep.errors import BenchError
from loadtests.sweep.figures import measurement_of
from loadtests.sweep.folder import RunFolder, now
from loadtests.sweep.machine import on_this_machine, this_machine
from loadtests.sweep.plan import check, load_of, series_of

ASK_AGAIN_S = 5.0
"""An endpoint that answered nothing, or refused the last connections, is asked again after this."""
GROWTH = 0.03
"""Throughput that grew by less than this did not grow, and goodput that lost less did not fall."""
WORSE = 2.0
"""TTFT p95 beyond this times its value at the best throughput: more users only wait longer."""


class Drive(Protocol):
    """Measures one point once. Raises for nothing an endpoint does."""

    async def __call__(
        self, point: Point, plan: Plan, side: Side, repeat: int, *, key: str | None = None
    ) -> Driven: ...


class DeadEndpoint(Exception):
    """An endpoint that answers nothing any more."""


async def run_plan(
    plan: Plan,
    folder: Path,
    *,
    drive: Drive = drive_endpoint,
    board: Board | None = None,
    key: str | Mapping[str, str] | None = None,
    resume: bool = False,
    configuration: Mapping[str, object] | None = None,
    notices: Sequence[str] = (),
    machine: Machine | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> Run:
    """Measures what of the plan is not in the folder yet, repeat by repeat and in each repeat side by side.

    `key` is for every side, or each side's own by its name. With `resume` a folder that holds a run of an equal plan
    is gone on with, and an empty one begun. `notices` go into its head. A dead endpoint ends the run, and
    `record.ended_because` says so; an interruption is written there too and raised again. BenchError for a plan that
    cannot be measured, a folder that holds another run, one that another process measures into, and a disk that takes
    no more.
    """
    check(plan)
    if machine is None:
        machine = await asyncio.to_thread(this_machine, on_this_machine(plan.sides))
    with RunFolder(folder) as kept:
        if resume and kept.holds_run:
            measured = _resumed(kept, plan, machine)
        else:
            measured = []
            kept.begin(RunRecord(plan=plan, machine=machine, began_at=now(), configuration=dict(configuration or {})))
        for notice in notices:
            kept.tell(notice)
        return await Sweep(plan, kept, drive, board or board_of(), _keys(plan, key), sleep, measured).run()


def _resumed(kept: RunFolder, plan: Plan, machine: Machine) -> list[Measurement]:
    run = kept.resume(plan)
    if run.record.machine != machine:
        kept.tell(f"went on at {now()} on another machine or other versions: {machine.cpu}, {machine.versions}")
    return list(run.measurements)


def _keys(plan: Plan, key: str | Mapping[str, str] | None) -> dict[str, str]:
    if key is None:
        return {}
    return {side.name: key for side in plan.sides} if isinstance(key, str) else dict(key)


@dataclass
class Sweep:
    """One run through a plan. `measured` grows; the folder has all of it."""

    plan: Plan
    folder: RunFolder
    drive: Drive
    board: Board
    keys: Mapping[str, str]
    sleep: Callable[[float], Awaitable[object]]
    measured: list[Measurement]
    _left: set[str] = field(default_factory=set)

    async def run(self) -> Run:
        """Everything that is left, then the end, also of a run that something broke off."""
        self.board.begin(self.plan, self.measured)
        try:
            because = await self._points()
            self.folder.end(because)
        except BaseException as error:
            self._broken_off(_because(error))
            raise
        finally:
            run = Run(self.folder.record, tuple(self.measured))
            self.board.end(run)
        return run

    def _broken_off(self, because: str) -> None:
        try:
            self.folder.end(because)
        except BenchError:
            # the disk takes no more: what broke the run off is what is raised
            return

    async def _points(self) -> str:
        """Why it ended early, empty if it did not."""
        try:
            for point in self.plan.points:
                if not self._goes_up(point):
                    continue
                for repeat in range(self.plan.repeats):
                    for side in self.plan.sides:
                        await self._measure(point, side, repeat)
        except DeadEndpoint as dead:
            self.board.stopped(str(dead))
            return str(dead)
        return ""

    def _goes_up(self, point: Point) -> bool:
        why = None if self.plan.stop == "never" else why_stop(self._below(point), self.plan.limits)
        series = series_of(point)
        if why and series not in self._left:
            self._left.add(series)
            notice = f"{series}: not measured from {point.load} on, as {why}"
            self.folder.tell(notice)
            self.board.stopped(notice)
        return why is None

    def _below(self, point: Point) -> list[Aggregate]:
        """The lower loads of the point's series, rising, on the first side."""
        series = [each for each in self.plan.points if series_of(each) == series_of(point)]
        lower = sorted((each for each in series if load_of(each) < load_of(point)), key=load_of)
        run = Run(self.folder.record, self.measured)
        repeats = [run.of(each, self.plan.sides[0].name) for each in lower]
        return [aggregate(each) for each in repeats if each]

    async def _measure(self, point: Point, side: Side, repeat: int) -> None:
        if any((each.point, each.side, each.repeat) == (point, side.name, repeat) for each in self.measured):
            return
        self.board.measuring(point, side.name, repeat)
        driven = await self._driven(point, side, repeat)
        measurement = measurement_of(driven, side=side, point=point, repeat=repeat, limits=self.plan.limits)
        self.folder.append(measurement)
        self.measured.append(measurement)
        self.board.measured(measurement)

    async def _driven(self, point: Point, side: Side, repeat: int) -> Driven:
        """DeadEndpoint if it was dead at the end of the measurement, which is then none."""
        key = self.keys.get(side.name)
        first = await self.drive(point, self.plan, side, repeat, key=key)
        await self._require_alive(point, side, first)
        if not unanswered(first.samples):
            return first
        second = await self.drive(point, self.plan, side, repeat, key=key)
        await self._require_alive(point, side, second)
        told = f"before, {_failures(first)}; these are from {ASK_AGAIN_S:g} s later"
        return replace(second, notices=(*second.notices, told))

    async def _require_alive(self, point: Point, side: Side, driven: Driven) -> None:
        """DeadEndpoint if nothing was answered, or the last request found no connection, and one later is lost too."""
        if not (unanswered(driven.samples) or _broke_off(driven)):
            return
        await self.sleep(ASK_AGAIN_S)
        one, once = _one_request(point, self.plan)
        # no other repeat has its prompts
        again = await self.drive(one, once, side, self.plan.repeats, key=self.keys.get(side.name))
        if unanswered(again.samples):
            raise DeadEndpoint(_obituary(point, side, driven))


def _broke_off(driven: Driven) -> bool:
    last = max(driven.samples, key=lambda each: each.ended_s, default=None)
    return last is not None and last.fault is Fault.CONNECTION


def _one_request(point: Point, plan: Plan) -> tuple[Point, Plan]:
    """To see whether an endpoint answers at all, however slow it is under load."""
    few = {"requests_per_user": 1, "min_requests": 1, "warmup_requests": 0}
    return point.model_copy(update={"concurrency": 1, "rate": None}), plan.model_copy(update=few)


def _obituary(point: Point, side: Side, driven: Driven) -> str:
    detail = next((f" ({each.detail})" for each in driven.samples if each.fault in LOST and each.detail), "")
    return (
        f"'{side.name}' at {side.url} does not answer: {_failures(driven)} at {point.load} ({series_of(point)}), and "
        f"so did one {ASK_AGAIN_S:g} s later{detail}; that measurement is not kept, and is made when the run goes on"
    )


def _failures(driven: Driven) -> str:
    """`12 of 16 requests failed (12 connection)`."""
    faults = Counter(str(each.fault) for each in driven.samples if each.fault)
    kinds = ", ".join(f"{count} {fault}" for fault, count in faults.most_common())
    which = "all" if faults.total() == len(driven.samples) else f"{faults.total()} of"
    return f"{which} {len(driven.samples)} requests failed ({kinds})"


def _because(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
        return "interrupted"
    return str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"


def why_stop(rising: Sequence[Aggregate], limits: Limits) -> str | None:
    """Why a series goes no higher than these loads, in words; None if it does.

    Over half of the last load's requests failed, or none ended; or at each of the last two, throughput was under 3 %
    above the best of the lower loads, and goodput was lower than at the lowest of those that do as much, or 0 (where
    limits are set), or TTFT p95 more than twice as long as there (end-to-end p95 for answers that come whole).
    """
    if not rising:
        return None
    last = rising[-1]
    if not last.requests:
        return f"no request ended at {last.point.load}"
    if 2 * last.failed > last.requests:
        return f"{last.failed} of {last.requests} requests failed at {last.point.load}"
    if len(rising) < 3 or not all(_saturated(rising[: len(rising) - out], limits) for out in (0, 1)):
        return None
    return f"throughput no longer grew at {rising[-2].point.load} and {last.point.load}, and answers only got slower"


def _saturated(rising: Sequence[Aggregate], limits: Limits) -> bool:
    """Whether the last of these loads brought nothing but waiting."""
    name = throughput(rising)
    *lower, last = rising
    best = max(each.figures[name].value for each in lower)
    if last.figures[name].value >= (1 + GROWTH) * best:
        return False
    # of equal loads the lowest: which of them is best by a hair is chance, and the higher wait longer
    knee = next(each for each in lower if (1 + GROWTH) * each.figures[name].value >= best)
    good = _value(last, "goodput_per_s")
    fell = limits != Limits() and (not good or good < (1 - GROWTH) * _value(knee, "goodput_per_s"))
    wait = "ttft_p95" if "ttft_p95" in knee.figures else "e2e_p95"
    return fell or _value(last, wait) > WORSE * _value(knee, wait)


def _value(at: Aggregate, name: str) -> float:
    return at.figures.get(name, Interval(value=0)).value
