"""What `corral fetch` fetches, where to, and its bars."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from app.fetch_report import FetchProgress
from app.settings import Settings, SettingsError
from app.submission.spec import cluster_of
from deployments.config import ModelSpec


def chosen(settings: Settings, models: Sequence[str] | None) -> list[ModelSpec]:
    """The named models, or all. Raises SettingsError for one that the profile does not have."""
    for model in models or ():
        if model not in settings.models:
            raise SettingsError(f"the profile has no model {model!r}; it has {', '.join(settings.models)}")
    return [spec for spec in settings.specs if not models or spec.id in models]


def weights_folder(settings: Settings, to: str | None) -> Path:
    """Where jobs look for weights, unless another folder is named. Raises SettingsError without any."""
    if to is not None:
        return Path(to)
    if settings.cluster is None:
        raise SettingsError("cluster.shared: the profile names no shared folder; say where with --to FOLDER")
    return cluster_of(settings).shared / f"corral-{getpass.getuser()}"


class Bars:
    """A bar for each source, on a terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True, quiet=quiet)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=console, disable=quiet or not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()

    def update(self, told: FetchProgress) -> None:
        if told.source not in self._tasks:
            self._tasks[told.source] = self._progress.add_task(told.source, total=told.total)
        self._progress.update(
            self._tasks[told.source], completed=told.done, total=told.total, description=f"{told.source} ({told.doing})"
        )
