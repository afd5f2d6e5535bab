"""`corral slurm render`: the job script before anything is submitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.allocation.records import ServiceJob
from app.settings import Settings, SettingsError
from app.submission.shape import shaped
from app.submission.spec import cluster_of, job_spec
from app.submission.submit import service_folder
from slurm.check import check
from slurm.client import SlurmClient
from slurm.errors import SlurmError
from slurm.script import render


@dataclass(frozen=True)
class Preview:
    """A job script; the job folder in it is made up. problems: what this cluster can never give."""

    script: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def require_fit(self) -> None:
        """Raise SettingsError unless the cluster could run it."""
        if self.problems:
            raise SettingsError(*self.problems)

    def to_json(self) -> dict[str, Any]:
        return {"script": self.script, "problems": list(self.problems), "notes": list(self.notes)}


async def preview(settings: Settings, name: str, client: SlurmClient) -> Preview:
    """Without SLURM at hand nothing is known of its partitions. Raises SettingsError for what cannot be rendered."""
    job, notes, partitions = ServiceJob(service_folder(settings, name).jobs / "preview"), [], None
    try:
        partitions = await client.partitions()
    except SlurmError as error:
        notes.append(f"not checked against the cluster: {error}")
    settings = shaped(settings, partitions or ())
    found = () if partitions is None else check(cluster_of(settings), partitions)
    script = render(job_spec(settings, job, name))
    return Preview(script, tuple(f"cluster.{problem}" for problem in found), tuple(notes))
