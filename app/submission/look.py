"""One look at a submitted service: what SLURM says of its job, and what the job says on the shared folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.allocation.records import Address, JobStatus, NodeRecord, ServiceJob
from app.change.records import FOLDER, ChangeFolder, ChangeStatus
from slurm.client import SlurmClient
from slurm.errors import Unavailable
from slurm.jobs import Job

FRESH_S = 30
"""A status of that age still counts as the word of a job that runs."""
NOISE = re.compile(r"^(srun|slurmstepd): (error: )?(\S+: task \S+ |Terminating|Force Term|launch/slurm)")


@dataclass(frozen=True)
class Queued:
    """What SLURM says. answers: False if it did not; then `job` is what it said before.

    before: how many jobs wait in front of this one, while it waits; None if not known.
    """

    job: Job | None = None
    before: int | None = None
    answers: bool = True


@dataclass(frozen=True)
class Look:
    """A service at one moment. `status` is that of this very start; None until its head has said something."""

    name: str
    at: ServiceJob
    job_id: int
    queued: Queued
    status: JobStatus | None
    address: Address | None
    nodes: Mapping[str, Mapping[str, str]]

    @property
    def job(self) -> Job | None:
        return self.queued.job

    @property
    def phase(self) -> str:
        """In one word or two: waiting, running, then the phases of JobStatus; ended."""
        job = self.job
        if job and job.state.ended:
            return "ended"
        if self.status:
            return self.status.phase
        if job is None:
            return "ended" if self.queued.answers else "unknown"
        return "waiting" if job.state.waiting else job.state.value.lower()

    @property
    def ready(self) -> bool:
        """It serves, and each model is ready, idle or failed."""
        status = self.status
        return bool(self.address and status and status.phase == "serving" and status.settled)

    @property
    def models(self) -> Mapping[str, Mapping[str, Any]]:
        return self.status.models if self.status else {}

    @property
    def answering(self) -> list[str]:
        """Models that a request can be sent to."""
        return [model for model, told in self.models.items() if told.get("state") in ("ready", "idle", "starting")]

    def fresh(self, now: float) -> bool:
        """Whether the job has said something a moment ago."""
        return self.status is not None and now - self.status.updated < FRESH_S

    def problem(self, now: float) -> str | None:
        """Why this cannot become ready any more, in one line; None while it can."""
        job, status = self.job, self.status
        if job and job.state.ended:
            return f"job {self.job_id} ended ({_ending(job)}): {(status and status.error) or last_words(self.at, job)}"
        if status and status.phase in ("failed", "ended"):
            return f"job {self.job_id} {status.phase}: {status.error or last_words(self.at, job)}"
        if job is None and self.queued.answers and not self.fresh(now):
            return f"job {self.job_id} is gone from SLURM: {last_words(self.at, None)}"
        return None

    def to_json(self) -> dict[str, Any]:
        status = self.status
        return {
            "name": self.name,
            "folder": str(self.at.path),
            "job_id": self.job_id,
            "phase": self.phase,
            "url": self.address.url if self.address else None,
            "address": asdict(self.address) if self.address else None,
            "slurm_answers": self.queued.answers,
            "job": _job_json(self.job, self.queued.before),
            "nodes": {node: dict(told) for node, told in self.nodes.items()},
            "models": {model: dict(told) for model, told in self.models.items()},
            "error": status.error if status else None,
            "degraded": status.degraded if status else None,
            "deadline": status.deadline if status else None,
            "successor": status.successor if status else None,
            "change": change.to_json() if (change := change_at(self.at)) else None,
        }


def change_at(at: ServiceJob) -> ChangeStatus | None:
    """The change of the running service that is under way, or the last one."""
    return ChangeFolder(at.path / FOLDER).status()


def see(at: ServiceJob, job_id: int, queued: Queued) -> Look:
    """Read what the job has written, beside what SLURM says."""
    status, address = _of_this_start(at.status(), queued.job), Address.read(at.service.address)
    return Look(
        name=at.service.path.name,
        at=at,
        job_id=job_id,
        queued=queued,
        status=status,
        address=address if address and address.job_id == job_id else None,
        nodes=_nodes(at, status, queued.job),
    )


async def ask(client: SlurmClient, job_id: int, place: bool = True) -> Queued:
    """What SLURM says now; with `place` also of the queue, which is a long list on a large cluster."""
    try:
        job = await client.job(job_id)
        before = await client.waiting_before(job) if place and job and job.state.waiting else None
    except Unavailable:
        return Queued(answers=False)
    return Queued(job, before)


def last_words(at: ServiceJob, job: Job | None) -> str:
    """The last line of the logs that says why a job ended: the head's own, else the batch script's."""
    if not at.job_log.exists():
        if job is None or not job.nodes:
            return "it never ran"
        return f"cluster.shared: node {job.nodes[0]} does not see {at.path}; name a folder that all nodes see"
    logs = [at.node_log(job.nodes[0])] if job and job.nodes else sorted(at.logs.glob("node-*.log"))[:1]
    for log in (*logs, at.job_log):
        if line := _last_line(log):
            return f"{line} (see {log})"
    return f"it left no word in {at.logs}"


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip() and not NOISE.match(line)]
    return next((line for line in reversed(said) if line.startswith("corral: ")), said[-1] if said else "")


def _of_this_start(status: JobStatus | None, job: Job | None) -> JobStatus | None:
    """A job that was requeued has left a status that no longer counts."""
    if status and job and (job.state.waiting or status.restarts < job.restarts):
        return None
    return status


def _nodes(at: ServiceJob, status: JobStatus | None, job: Job | None) -> dict[str, Mapping[str, str]]:
    """What the head says of the nodes; until then what they say themselves, or that SLURM gave them."""
    if status and status.nodes:
        return dict(status.nodes)
    if job is None or not job.nodes:
        return {}
    said = {record.node: record for record in at.node_records() if record.restarts == job.restarts}
    return {node: _node(said.get(node)) for node in job.nodes}


def _node(record: NodeRecord | None) -> dict[str, str]:
    if record is None:
        return {"group": "", "state": "waiting", "detail": ""}
    state = record.phase if record.phase in ("joined", "failed") else "waiting"
    return {"group": record.group, "state": state, "detail": record.detail or record.phase}


def _ending(job: Job) -> str:
    if job.exit_code:
        return f"{job.state.value}, exit code {job.exit_code}"
    if job.signal:
        return f"{job.state.value}, signal {job.signal}"
    return job.state.value + (f", {job.reason}" if job.reason else "")


def _job_json(job: Job | None, before: int | None) -> dict[str, Any] | None:
    if job is None:
        return None
    return {
        "id": job.id,
        "state": job.state.value,
        "reason": job.reason,
        "waiting_before": before,
        "partition": job.partition,
        "nodes": list(job.nodes),
        "node_count": job.node_count,
        "submitted_at": job.submitted_at,
        "starts_at": job.starts_at,
        "ends_at": job.ends_at,
        "time_left_s": None if job.time_left is None else job.time_left.total_seconds(),
        "restarts": job.restarts,
        "exit_code": job.exit_code,
        "signal": job.signal,
    }
