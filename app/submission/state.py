"""What a submission leaves on the login node, so that later commands need only a service's name."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from pathlib import Path

from app.allocation.records import Record, ServiceFolder
from app.launch import NotRunningError
from app.state import state_directory
from app.submission.spec import MARK
from slurm.client import SlurmClient

PREFIX = "slurm-"


@dataclass(frozen=True)
class Known(Record):
    """A service that was submitted from here: its folder on the shared disk, and the profile's name."""

    name: str
    folder: str
    profile: str

    @property
    def service(self) -> ServiceFolder:
        return ServiceFolder(Path(self.folder))


def remember(known: Known) -> None:
    path = _path(known.name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    known.write(path)


def remembered() -> list[Known]:
    """All services that were submitted from here and whose folders are still there."""
    found = (Known.read(path) for path in sorted(state_directory().glob(f"{PREFIX}*.json")))
    return [known for known in found if known and known.service.path.is_dir()]


async def find(name: str, client: SlurmClient) -> ServiceFolder:
    """The service's folder: as remembered here, else as a job of it says. Raises NotRunningError, SlurmError."""
    if (known := Known.read(_path(name))) and known.service.path.is_dir():
        return known.service
    jobs = await client.jobs(user=getpass.getuser(), comment=MARK)
    folders = [Path(job.comment.removeprefix(MARK)) for job in jobs]
    if folder := next((folder for folder in folders if folder.name == name), None):
        return ServiceFolder(folder)
    others = sorted({folder.name for folder in folders} | {known.name for known in remembered()})
    known_ones = f"yours are {', '.join(others)}" if others else "you have none"
    raise NotRunningError(f"no service {name!r} on this cluster ({known_ones}); `corral slurm up` submits one")


def _path(name: str) -> Path:
    return state_directory() / f"{PREFIX}{name}.json"
