"""A sweep from what was asked to a folder with its run and its report, and on from where an interrupted one stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import typer

from app.access.mine import VARIABLE
from app.bench.asked import Asked
from app.bench.configuration import configuration_of, gpus_of
from app.bench.endpoints import Where, cards_of, chosen, require_one_model, server_of, side_of
from app.settings import Settings
from app.talk import UnreachableError
from loadtests.client.endpoint import calibrate, names, unfit
from loadtests.records import Calibration, Fault, Kind, Measurement, Plan, Point, Run, RunRecord, Side
from loadtests.report.aims import Aim
from loadtests.report.write import JSON, write_report
from loadtests.sweep.board import Board
from loadtests.sweep.errors import BenchError
from loadtests.sweep.folder import HEAD, read_run
from loadtests.sweep.plan import LISTED
from loadtests.sweep.run import run_plan


@dataclass(frozen=True)
class Task:
    """What is about to be measured. `keys` by the sides' names; they are in no file."""

    plan: Plan
    folder: Path
    keys: Mapping[str, str]
    command: str = ""
    aims: tuple[Aim, ...] = ()
    configuration: Mapping[str, object] | None = None
    left_out: tuple[str, ...] = ()
    """Why some points are in no plan, in words."""
    resume: bool = False
    notices: tuple[str, ...] = ()
    """What the run's record is to tell, in words."""


def require_place(folder: Path) -> None:
    """BenchError where no run can be begun, before anything is asked."""
    if (folder / HEAD).exists():
        raise BenchError(f"{folder} holds a run already: go on with --resume {folder}, or choose another --out")
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise BenchError(f"{folder} cannot be written: {nearest} is no folder that you may write; choose another --out")


async def new_task(
    asked: Asked, wheres: Sequence[Where], settings: Settings | None, folder: Path, command: str, aims: Sequence[Aim]
) -> Task:
    """Asks every endpoint who it is. Raises BadParameter, UnreachableError and RefusedError."""
    kinds = asked.wanted_kinds
    cards = [await cards_of(each) for each in wheres]
    models = chosen(cards, wheres, asked.names, kinds)
    points = asked.points(models)
    for where in wheres:
        require_one_model(where, points)
    measured = list(dict.fromkeys(point.model for point in points))
    sides = [
        await side_of(where, names(points), gpus_of(settings if where is wheres[0] else None, measured))
        for where in wheres
    ]
    points, left_out = _fitting(points, sides)
    configuration = configuration_of(settings, measured) | ({"points left out": left_out} if left_out else {})
    plan = Plan(
        sides=tuple(sides),
        points=points,
        repeats=asked.repeats,
        requests_per_user=asked.requests_per_user,
        max_seconds=asked.max_seconds,
        timeout_s=asked.timeout_s,
        warmup_requests=asked.warmup,
        seed=asked.seed,
        workload=asked.workload,
        calibrations=await _calibrations(sides[0], wheres[0].key, points),
        limits=asked.limits,
        stop="saturation" if asked.stop else "never",
        title=asked.title,
    )
    keys = {side.name: where.key for side, where in zip(sides, wheres, strict=True) if where.key}
    return Task(plan, folder, keys, command, tuple(aims), configuration, tuple(left_out))


def _fitting(points: Sequence[Point], sides: Sequence[Side]) -> tuple[tuple[Point, ...], list[str]]:
    """The points whose tokens every endpoint takes, and in words why the others are left out, each reason once."""
    why = {point: next((each for side in sides if (each := unfit(side, point))), None) for point in points}
    left_out = list(dict.fromkeys(each for each in why.values() if each))
    fit = tuple(point for point, reason in why.items() if reason is None)
    if not fit:
        raise typer.BadParameter("; ".join(left_out), param_hint="--lengths")
    return fit, left_out


async def _calibrations(side: Side, key: str | None, points: Sequence[Point]) -> dict[str, Calibration]:
    models = dict.fromkeys(point.model for point in points if point.kind in LISTED)
    found = {model: await calibrate(side, model, key=key) for model in models}
    return {model: each for model, each in found.items() if each is not None}


async def resumed_task(folder: Path, key_variable: str | None, aims: Sequence[Aim]) -> Task | None:
    """The rest of an interrupted run, whose endpoints answer; None for a run that has ended by itself.

    Raises BenchError for a folder without a run, UnreachableError and RefusedError.
    """
    run = read_run(folder)
    if run.record.ended_at and not run.record.ended_because:
        return None
    command, before = told_of(folder)
    plan = run.record.plan
    keys = [os.environ.get(name) if name else None for name in (VARIABLE, key_variable)]
    wheres = [
        Where(side.url, "--resume", side.name, key, certificate=side.certificate)
        for side, key in zip(plan.sides, [*keys, None], strict=False)
    ]
    notices = []
    for side, where in zip(plan.sides, wheres, strict=False):
        has = await cards_of(where)
        if models := [point.model for point in plan.points if point.kind in LISTED]:
            chosen([has], [where], models, (Kind.CHAT,))
        notices += _another_server(side, await server_of(where))
    known = {where.name: where.key for where in wheres if where.name and where.key}
    return Task(plan, folder, known, command, tuple(aims) or before, resume=True, notices=tuple(notices))


def _another_server(side: Side, now: str) -> list[str]:
    """An endpoint that answers as another one than before, which an upgrade in between may be."""
    if not side.server or now == side.server:
        return []
    return [f"'{side.name}' was {side.server} when the run began, and is {now or 'unknown'} since it was resumed"]


def told_of(folder: Path) -> tuple[str, tuple[Aim, ...]]:
    """The command and the aims in a run's report; nothing where there is none."""
    try:
        told = json.loads((folder / JSON).read_text())
        aims = tuple(Aim.model_validate(each["aim"]) for each in told["aims"])
        return str(told["command"]), tuple(dict.fromkeys(aims))
    except (OSError, ValueError, LookupError, TypeError):
        return "", ()


async def measure(task: Task, board: Board) -> Run:
    """Measures what is left, with a report after every point. Raises BenchError; an interruption goes through."""
    return await run_plan(
        task.plan,
        task.folder,
        board=Reporting(board, task),
        key=task.keys,
        resume=task.resume,
        configuration=task.configuration,
        notices=task.notices,
    )


def report(folder: Path, command: str, aims: Sequence[Aim]) -> Run:
    """Writes the whole report of what lies in a folder. Raises BenchError."""
    run = read_run(folder)
    try:
        write_report(run, folder, command=command, aims=aims)
    except OSError as error:
        raise BenchError(f"the report in {folder} cannot be written: {error.strerror}") from None
    return run


def require_answers(run: Run) -> None:
    """UnreachableError for a run that an endpoint has broken off, or in which no request was answered."""
    if run.record.ended_because:
        raise UnreachableError(run.record.ended_because)
    figures = [each.figures for each in run.measurements]
    if figures and all(each.failed == each.requests for each in figures):
        faults = sorted({fault for each in figures for fault in each.faults})
        raise UnreachableError(f"no request was answered ({', '.join(faults)}); the report has the first of each")
    if figures and 2 * figures[-1].faults.get(Fault.CONNECTION, 0) > figures[-1].requests:
        raise UnreachableError(f"'{run.measurements[-1].side}' refused most connections at the end of the run")


class Reporting:
    """A board behind which the report is written anew after every point. Whatever the disk says to that is not told:
    the measurements' own file says it, too."""

    def __init__(self, board: Board, task: Task) -> None:
        self._board, self._task = board, task
        self._measured: list[Measurement] = []

    def begin(self, plan: Plan, done: Sequence[Measurement]) -> None:
        self._measured = list(done)
        self._board.begin(plan, done)

    def measuring(self, point: Point, side: str, repeat: int) -> None:
        self._board.measuring(point, side, repeat)

    def measured(self, measurement: Measurement) -> None:
        self._measured.append(measurement)
        self._board.measured(measurement)
        plan = self._task.plan
        if sum(each.point == measurement.point for each in self._measured) == plan.repeats * len(plan.sides):
            self._write()

    def stopped(self, notice: str) -> None:
        self._board.stopped(notice)

    def end(self, run: Run) -> None:
        self._board.end(run)

    def _write(self) -> None:
        task = self._task
        with suppress(OSError, ValueError):
            record = RunRecord.model_validate_json((task.folder / HEAD).read_bytes())
            run = Run(record, tuple(self._measured))
            write_report(run, task.folder, command=task.command, aims=task.aims, plots=False)
