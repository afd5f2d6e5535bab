"""How a run shows itself while it measures: a live table on a terminal, elsewhere a line a measurement on stderr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from loadtests.records import Interval, Measurement, Plan, Point, Run
from loadtests.sweep.aggregate import aggregate, number
from loadtests.sweep.plan import series_of

COLUMNS = {
    "output_tokens_per_s": "tokens/s",
    "ttft_p50": "TTFT p50",
    "ttft_p95": "TTFT p95",
    "itl_p50": "ITL p50",
    "itl_p95": "ITL p95",
}
"""Figures by name, and how they are called here; latencies are in milliseconds."""


class Board(Protocol):
    """What a run tells. Nothing here may raise: a run does not end for how it is shown."""

    def begin(self, plan: Plan, done: Sequence[Measurement]) -> None:
        """Before the first measurement; `done` was measured before an interruption."""

    def measuring(self, point: Point, side: str, repeat: int) -> None:
        """A measurement begins."""

    def measured(self, measurement: Measurement) -> None:
        """It has ended and is on the disk."""

    def stopped(self, notice: str) -> None:
        """A series goes no higher, or the run does not go on: the notice says why."""

    def end(self, run: Run) -> None:
        """After the last one, also where the run was interrupted."""


def board_of(console: Console | None = None) -> Board:
    """The live table if the console (stderr, if none is given) is a terminal, else lines."""
    console = console or Console(stderr=True)
    return LiveBoard(console) if console.is_terminal else LineBoard(console)


class LineBoard:
    """A line for every measurement, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._of = self._done = 0

    def begin(self, plan: Plan, done: Sequence[Measurement]) -> None:
        self._of, self._done = _count(plan), len(done)
        before = f", {len(done)} of them before" if done else ""
        self._say(f"{self._of} measurements{before}")

    def measuring(self, point: Point, side: str, repeat: int) -> None:
        return

    def measured(self, measurement: Measurement) -> None:
        self._done += 1
        found = aggregate([measurement])
        figures = ", ".join(f"{name} {_shown(found.figures, key)}" for key, name in COLUMNS.items())
        at = f"{series_of(found.point)}, {found.point.load}, repeat {measurement.repeat + 1}"
        failed = f"failed {found.failed}/{found.requests}"
        self._say(f"[{self._done}/{self._of}] {found.side}, {at}: {figures}, {failed}")

    def stopped(self, notice: str) -> None:
        self._say(notice)

    def end(self, run: Run) -> None:
        because = run.record.ended_because
        self._say(f"{len(run.measurements)} measured{f', ended early: {because}' if because else ''}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveBoard:
    """The series that is being measured as a table; the ones before it stay above."""

    def __init__(self, console: Console) -> None:
        # drawn when something happened and not by the clock: a thread that draws takes from the client it shows
        self._live = Live(console=console, auto_refresh=False)
        self._plan: Plan | None = None
        self._series = ""
        self._now: tuple[Point, str, int] | None = None
        self._measured: dict[tuple[Point, str], list[Measurement]] = {}
        self._stopped = False

    def begin(self, plan: Plan, done: Sequence[Measurement]) -> None:
        self._plan = plan
        for each in done:
            self._measured.setdefault((each.point, each.side), []).append(each)
        self._live.start()

    def measuring(self, point: Point, side: str, repeat: int) -> None:
        if series_of(point) != self._series:
            self._leave()
            self._series, self._stopped = series_of(point), False
        self._now = (point, side, repeat)
        self._draw()

    def measured(self, measurement: Measurement) -> None:
        self._measured.setdefault((measurement.point, measurement.side), []).append(measurement)
        self._now = None
        self._draw()

    def stopped(self, notice: str) -> None:
        self._stopped = True
        self._draw()
        self._live.console.print(notice, markup=False, highlight=False)

    def end(self, run: Run) -> None:
        self._now = None
        self._draw()
        self._live.stop()
        if run.record.ended_because:
            self._live.console.print(f"ended early: {run.record.ended_because}", markup=False, highlight=False)

    def _leave(self) -> None:
        if self._series:
            self._live.console.print(self.table())

    def _draw(self) -> None:
        self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """The present series, a row for every load on every side."""
        table = Table(title=escape(self._series), title_justify="left", box=None, pad_edge=False)
        for name in ("load", "endpoint", "status", *COLUMNS.values(), "failed"):
            table.add_column(name, justify="left" if name in ("endpoint", "status") else "right")
        for point in self._plan.points if self._plan else ():
            if series_of(point) == self._series:
                for side in self._plan.sides if self._plan else ():
                    table.add_row(point.load, escape(side.name), *self._cells(point, side.name))
        return table

    def _cells(self, point: Point, side: str) -> list[str]:
        repeats = self._measured.get((point, side), [])
        status = self._status(point, side, len(repeats))
        if not repeats:
            return [status, *("" for _ in COLUMNS), ""]
        found = aggregate(repeats)
        return [status, *(_shown(found.figures, name) for name in COLUMNS), f"{found.failed}/{found.requests}"]

    def _status(self, point: Point, side: str, repeats: int) -> str:
        of = self._plan.repeats if self._plan else 0
        if self._now is not None and self._now[:2] == (point, side):
            return f"measuring {self._now[2] + 1}/{of}"
        if repeats:
            return "done" if repeats == of else f"{repeats}/{of}"
        return "left out" if self._stopped else ""


def _count(plan: Plan) -> int:
    return len(plan.points) * len(plan.sides) * plan.repeats


def _shown(figures: Mapping[str, Interval], name: str) -> str:
    return number(figures[name].value) if name in figures else "-"
