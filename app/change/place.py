"""Where a change of a running service is asked for: of `corral up` on this machine, or in a SLURM job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.allocation.records import ServiceFolder, ServiceJob
from app.change.records import FOLDER, ChangeFolder, ChangeStatus
from app.launch import LaunchError, NotRunningError, look
from app.settings import Settings, SettingsError
from app.state import ServiceState, read_state

SILENT_S = 60.0


@dataclass(frozen=True)
class Place:
    """A service that can be asked. down: why it cannot any more; None as long as it can."""

    folder: ChangeFolder
    settings_file: Path
    down: Callable[[], str | None]

    def in_force(self) -> Settings:
        """What it serves now."""
        return Settings.model_validate_json(self.settings_file.read_text())


def find(name: str, settings: Settings) -> tuple[Place, Settings]:
    """The service of that name, and the profile as it would be started there.

    Where there is one on this machine and one in a job, the profile's `cluster` decides.
    Raises NotRunningError, LaunchError, SettingsError, SlurmError.
    """
    state = read_state(name)
    here = state is not None and state.alive()
    if settings.cluster is None or (here and not _remembered(name)):
        return _local(name), settings
    return asyncio.run(_in_job(name, settings))


def change_of(state: ServiceState) -> ChangeStatus | None:
    """The change that is under way, or the last one."""
    return ChangeFolder(Path(state.run_dir) / FOLDER).status()


def _local(name: str) -> Place:
    state = look(name).state
    if state.phase != "serving":
        raise LaunchError(f"{name!r} cannot be changed while it is {state.phase}; `corral status` tells")
    run_dir = Path(state.run_dir)
    down = None, f"the service {name!r} has ended"
    return Place(ChangeFolder(run_dir / FOLDER), run_dir / "settings.json", lambda: down[not state.alive()])


def _remembered(name: str) -> bool:
    from app.submission.state import remembered

    return any(known.name == name for known in remembered())


async def _in_job(name: str, settings: Settings) -> tuple[Place, Settings]:
    from app.submission.checks import check_folders
    from app.submission.state import find as find_folder
    from app.submission.submit import as_submitted
    from slurm.client import SlurmClient

    client = SlurmClient()
    folder = await find_folder(name, client)
    check_folders(settings)
    if not settings.cluster or not folder.path.is_relative_to(settings.cluster.shared):
        raise SettingsError(f"cluster.shared: {name!r} lies in {folder.path}; a running service cannot be moved")
    return _job_place(folder), await as_submitted(settings, folder, client)


def _job_place(folder: ServiceFolder) -> Place:
    job = folder.latest()
    status = job.status() if job else None
    if job is None or status is None or status.phase != "serving":
        phase = status.phase if status else "waiting"
        raise NotRunningError(f"{folder.path.name!r} serves nothing that could be changed (it is {phase})")
    return Place(ChangeFolder(job.path / FOLDER), folder.settings, lambda: _job_down(job))


def _job_down(job: ServiceJob) -> str | None:
    status = job.status()
    if status is None or time.time() - status.updated < SILENT_S:
        return None
    return f"job {status.job_id} has said nothing for {SILENT_S:g} s; `corral slurm status` tells more"
