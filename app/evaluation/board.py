"""How far a run is: a bar on a terminal, and a line for each contestant elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class ProgressBoard:
    """One bar, for the contestant that is asked now; on standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        disable = quiet or not self._console.is_terminal
        self._progress = Progress(*columns, console=self._console, transient=True, disable=disable)
        self._bar: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()

    def begin(self, label: str, done: int, total: int) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        self._bar = self._progress.add_task(label, completed=done, total=total)
        if not self._console.is_terminal:
            self._console.print(f"{label}: {done} of {total} are there", highlight=False, markup=False)

    def advance(self) -> None:
        if self._bar is not None:
            self._progress.advance(self._bar)
