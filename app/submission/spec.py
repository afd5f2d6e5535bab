"""Settings -> JobSpec: what of a profile its job script says, and where its jobs keep what they cache."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

from app.allocation.records import ServiceFolder, ServiceJob
from app.private_files import write_private
from app.settings import POCKET, Settings, SettingsError
from slurm.config import ClusterConfig, NodeGroup
from slurm.script import JobSpec, render

MODULE = "app.allocation.node"
MARK = "corral:"
"""A job's comment is this and its service's folder: jobs are found again by it."""
SHORTEST_JOINER = timedelta(minutes=2)


def cluster_of(settings: Settings) -> ClusterConfig:
    """The profile's `cluster`. Raises SettingsError if it has none."""
    if settings.cluster is None:
        raise SettingsError(
            "cluster: the profile says nothing of SLURM; add cluster: {walltime: '1:00:00', shared: /...}"
        )
    return settings.cluster


def job_name(name: str) -> str:
    return f"corral-{name}"


def comment(folder: ServiceFolder) -> str:
    return f"{MARK}{folder.path}"


def cache_folders(folder: ServiceFolder) -> tuple[Path, Path]:
    """Where a user's jobs cache, and what is HOME in a container."""
    return folder.path.parent / "cache", folder.path.parent / "home"


def job_spec(settings: Settings, job: ServiceJob, name: str) -> JobSpec:
    """The job of the service `name`. Raises SettingsError for what would not arrive in the script as it is."""
    config = cluster_of(settings)
    inside = config.container.kind != "none"
    try:
        return JobSpec(
            config=config,
            name=job_name(name),
            folder=job.path,
            python=config.python or ("python3" if inside else sys.executable),
            module=MODULE,
            comment=comment(job.service),
            env=_environment(job.service, inside),
            read_only=_weights(settings, config.shared) if inside else (),
            writable=_documents(settings, config.shared) if inside else (),
        )
    except ValueError as error:
        raise SettingsError(f"cluster: {error}") from None


def write_script(spec: JobSpec, job: ServiceJob) -> None:
    """Write job.sh, for its owner alone."""
    write_private(job.script, render(spec))


def joiner(settings: Settings, main: ServiceJob, group: str, walltime: timedelta) -> ServiceJob:
    """A job folder with the script of a job of one node of `group`, to join the job `main`; not submitted.

    Raises SettingsError if there is no such group, ValueError if too little time is left for another node.
    """
    if walltime < SHORTEST_JOINER:
        raise ValueError(f"only {walltime.total_seconds():.0f} s of the job are left: too little for another node")
    config = cluster_of(settings)
    alone = {"groups": (_one_node(config, group),), "walltime": walltime, "requeue": False, "successor": False}
    drain_s = min(config.drain_s, int(walltime.total_seconds()) - 60)
    settings = settings.model_copy(update={"cluster": config.model_copy(update={**alone, "drain_s": drain_s})})
    job = main.service.new_job()
    job.joins_file.write_text(str(main.path))
    write_script(job_spec(settings, job, main.service.path.name), job)
    return job


def _one_node(config: ClusterConfig, name: str) -> NodeGroup:
    for group in config.groups:
        if group.name == name:
            return group.model_copy(update={"nodes": 1})
    known = ", ".join(group.name for group in config.groups)
    raise SettingsError(f"cluster.groups: there is no group {name!r}; there are {known}")


def _environment(folder: ServiceFolder, inside: bool) -> dict[str, str]:
    cache, home = cache_folders(folder)
    variables = {
        "XDG_CACHE_HOME": str(cache),
        "HF_HOME": str(cache / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return {**variables, "HOME": str(home)} if inside else variables


def _weights(settings: Settings, shared: Path) -> tuple[Path, ...]:
    """Local folders that the profile's models are read from, where the container does not see them anyway."""
    folders = (folder for _, folder in local_folders(settings))
    return tuple(dict.fromkeys(folder for folder in folders if not folder.is_relative_to(shared)))


def _documents(settings: Settings, shared: Path) -> tuple[Path, ...]:
    """The folder of the documents, where the container does not see it anyway."""
    folder = settings.rag.folder
    return (Path(folder),) if folder and not Path(folder).is_relative_to(shared) else ()


def local_folders(settings: Settings) -> list[tuple[str, Path]]:
    """The profile's field and the folder, for each model and adapter that is one."""
    rag = settings.rag
    found = [
        ("rag.embedding.model", Path(rag.embedding.model)),
        ("rag.search.reranker", Path(rag.search.reranker or "")),
    ]
    for spec in settings.specs:
        if not settings.models[spec.id].source.startswith(POCKET):
            found.append((f"models.{spec.id}.source", Path(spec.source)))
        for name, path in (spec.lora.adapters if spec.lora else {}).items():
            found.append((f"models.{spec.id}.lora.adapters.{name}", Path(path)))
    return [(field, path) for field, path in found if path.is_absolute()]
