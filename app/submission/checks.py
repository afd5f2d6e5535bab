"""What is looked at before a job is submitted: folders, sources, partitions. Each problem names a field."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from app.allocation.records import ServiceFolder
from app.settings import Settings, SettingsError
from app.submission.mounts import OF_ONE_MACHINE, file_system
from app.submission.shape import shaped
from app.submission.spec import cluster_of, local_folders
from deployments.config import ModelSpec
from slurm.check import check
from slurm.partitions import Partition


def fitted(settings: Settings, partitions: Sequence[Partition]) -> Settings:
    """The settings with the groups that the job gets. Raises SettingsError for what this cluster can never give."""
    settings = shaped(settings, partitions)
    if problems := check(cluster_of(settings), partitions):
        raise SettingsError(*(f"cluster.{problem}" for problem in problems))
    return settings


def check_folders(settings: Settings) -> None:
    """Raises SettingsError for folders that are not there, or not writable where they must be."""
    problems = [f"{field}: there is no folder {path}" for field, path in local_folders(settings) if not path.is_dir()]
    if problem := _unusable(cluster_of(settings).shared):
        problems.append(f"cluster.shared: {problem}")
    if problems:
        raise SettingsError(*problems)


def doubts(settings: Settings) -> list[str]:
    """A line for each folder that perhaps only this machine has."""
    config = cluster_of(settings)
    folders = [("cluster.shared", config.shared)]
    folders += [each for each in local_folders(settings) if not each[1].is_relative_to(config.shared)]
    if config.container.kind == "none" and config.python is None:
        folders.append(("cluster.python", Path(sys.executable).parent))
    return [
        f"{field}: {path} is on {kind}, which often is one machine's own; every node must see it at this path"
        for field, path in folders
        if (kind := file_system(path)) in OF_ONE_MACHINE
    ]


def _unusable(shared: Path) -> str | None:
    if not shared.is_dir():
        return (
            f"there is no folder {shared}; name one that this machine and all compute nodes see, such as your scratch"
        )
    if not os.access(shared, os.W_OK | os.X_OK):
        return f"you may not write to {shared}; name a folder of yours that all compute nodes see"
    return None


def offline(settings: Settings, folder: ServiceFolder) -> Settings:
    """The settings with staged folders for hub ids, since jobs run with the hub off. Raises SettingsError."""
    problems: list[str] = []

    def staged(field: str, source: str, model: str) -> str:
        from app.fetch import is_hub_id, staged_source

        if not is_hub_id(source):
            return source
        if found := staged_source(source, folder.path.parent):
            return str(found)
        problems.append(f"{field}: {source} is not fetched yet; `corral fetch {model}` does it")
        return source

    models = {key: _staged(key, spec, staged) for key, spec in settings.models.items()}
    if problems:
        raise SettingsError(*problems)
    return settings.model_copy(update={"models": models})


def _staged(key: str, spec: ModelSpec, staged: Callable[[str, str, str], str]) -> ModelSpec:
    update: dict[str, Any] = {"source": staged(f"models.{key}.source", spec.source, key)}
    if spec.lora:
        adapters = {
            name: staged(f"models.{key}.lora.adapters.{name}", source, key)
            for name, source in spec.lora.adapters.items()
        }
        update["lora"] = spec.lora.model_copy(update={"adapters": adapters})
    return spec.model_copy(update=update)
