"""Which files hold the logs of a job: the batch script's, the nodes', and what each node's Ray and Serve left."""

from __future__ import annotations

from pathlib import Path

from app.allocation.records import ServiceJob
from app.launch import NotRunningError
from deployments.progress import noted_log_files


def files(job: ServiceJob, model: str | None) -> list[Path]:
    """The job's own logs first, then those of each node; with `model` only those that its replicas write to."""
    found = sorted(path for path in job.logs.rglob("*") if path.is_file() and not path.name.startswith("."))
    found.sort(key=lambda path: (path != job.job_log, path.parent != job.logs))
    if model is None:
        return found
    noted = {path.name for path in noted_log_files(job.progress, model)}
    own = (f"model-{model}_", f"model-{model}:")  # those of later generations have a colon
    return [path for path in found if path.name in noted or any(part in path.name for part in own)]


def check_model(job: ServiceJob, model: str | None) -> None:
    """Raise NotRunningError if the service was submitted without such a model."""
    from app.settings import Settings

    try:
        models = list(Settings.model_validate_json(job.service.settings.read_text()).models)
    except (OSError, ValueError):
        return
    if model is not None and model not in models:
        raise NotRunningError(f"{job.service.path.name!r} has no model {model!r}; it has {', '.join(models)}")
