"""All services of a user: those with a job, and those that were submitted from here once."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.allocation.records import Address, ServiceFolder
from app.submission.spec import MARK
from app.submission.state import remembered
from slurm.client import SlurmClient
from slurm.jobs import Job
from slurm.walltime import format_walltime


@dataclass(frozen=True)
class Listed:
    """A job of a service (a successor and joiners have lines of their own), or a service without one."""

    name: str
    folder: ServiceFolder
    job: Job | None
    kind: str
    url: str

    def to_json(self) -> dict[str, Any]:
        job = self.job
        return {
            "name": self.name,
            "folder": str(self.folder.path),
            "kind": self.kind,
            "job_id": job.id if job else None,
            "state": job.state.value if job else None,
            "reason": job.reason if job else "",
            "nodes": list(job.nodes) if job else [],
            "node_count": job.node_count if job else 0,
            "time_left_s": job.time_left.total_seconds() if job and job.time_left is not None else None,
            "url": self.url or None,
        }

    def row(self) -> list[str]:
        job = self.job
        if job is None:
            return [self.name, "-", "no job", "", "", ""]
        left = format_walltime(job.time_left) if job.time_left is not None else ""
        state = f"{job.state.value} ({job.reason})" if job.reason else job.state.value
        nodes = ",".join(job.nodes) or str(job.node_count)
        job_id = f"{job.id}" if self.kind == "service" else f"{job.id} ({self.kind})"
        return [self.name, job_id, state, nodes, left, self.url]


HEADING = ["name", "job", "state", "nodes", "time left", "address"]


async def services(client: SlurmClient) -> list[Listed]:
    """By name. Raises SlurmError."""
    jobs = [job for job in await client.jobs(user=getpass.getuser(), comment=MARK) if not job.state.ended]
    folders = {Path(job.comment.removeprefix(MARK)) for job in jobs} | {known.service.path for known in remembered()}
    return [
        listed
        for path in sorted(folders, key=lambda each: (each.name, each))
        for listed in _of_service(ServiceFolder(path), [job for job in jobs if job.comment == f"{MARK}{path}"])
    ]


def _of_service(folder: ServiceFolder, jobs: Sequence[Job]) -> list[Listed]:
    if not jobs:
        return [Listed(folder.path.name, folder, None, "service", "")]
    address = Address.read(folder.address)
    kinds = {record.job_id: record.kind for at in folder.all_jobs() if (record := at.record())}
    urls = {address.job_id: address.url} if address else {}
    return [
        Listed(folder.path.name, folder, job, kinds.get(job.id, "service"), urls.get(job.id, ""))
        for job in sorted(jobs, key=lambda each: each.id)
    ]
