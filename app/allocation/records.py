"""What a service leaves on the shared folder: one folder per service, in it one per job, in each a few small files.

    SHARED/corral-USER/NAME/            ServiceFolder, 0700
        address.json                    Address: where it answers now; absent while it does not
        settings.json                   the profile as submitted, 0600
        jobs/20261121-153309-1f2e/      slurm.folder.JobFolder and
            job.json                    JobRecord: written by whoever submitted it
            status.json                 JobStatus: written by the head while the job runs, and once more at its end
            cluster.json                ClusterRecord: how nodes join; written anew by every start of the job
            nodes/NODE.json             NodeRecord: written by each node's agent
            token                       Ray's, 0600
            submit/STAMP                jobs for the batch shell to submit: it is outside of any container

Records are replaced in one step, and readable by their owner alone. A reader gets None for what is not there, is of
another version, or is half written by a network file system.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from app.private_files import write_private
from slurm.folder import JobFolder

KINDS = Literal["service", "successor", "joiner"]


@dataclass(frozen=True)
class Record:
    """A small JSON file."""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        write_private(path, json.dumps(asdict(self), indent=1))


@dataclass(frozen=True)
class Address(Record):
    """Where a service answers. `host` is an IP address on the cluster's network; `since` is unix seconds.

    certificate: the file that an https address is to be trusted by; empty where the authorities say so. fingerprint:
    SHA-256 of the certificate that it shows; empty without TLS, and where the job is of an earlier version.
    """

    job_id: int
    node: str
    host: str
    port: int
    since: float
    scheme: str = "http"
    certificate: str = ""
    fingerprint: str = ""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True)
class JobRecord(Record):
    """A job as it was submitted. `joins`: of a joiner, the job folder that it adds nodes to."""

    job_id: int
    kind: KINDS
    submitted: float
    joins: str | None = None


@dataclass(frozen=True)
class ClusterRecord(Record):
    """How a node joins. A start is one run of a job: `restarts` tells those of a requeued job apart."""

    job_id: int
    restarts: int
    gcs: str
    token_path: str
    replica_ports: int


@dataclass(frozen=True)
class NodeRecord(Record):
    """A node of the job. phase: starting, copying weights, waiting for the head, joining, joined, ended or failed.

    job_id and restarts are of the job that this agent runs in, which may be a joiner.
    """

    node: str
    group: str
    job_id: int
    restarts: int
    phase: str
    address: str = ""
    detail: str = ""


@dataclass(frozen=True)
class JobStatus(Record):
    """What the head says of the whole service; unix seconds.

    phase:    starting Ray, waiting for nodes, deploying, serving, draining, stopping, ended or failed.
    nodes:    name -> nodes.Node.to_json(); state is waiting, joined, lost or failed; the head is among them.
    models:   id -> deployments.status.ModelStatus.to_json(); empty until the gateway answers.
    degraded: why fewer nodes or replicas serve than asked for, or None.
    successor: id of the job that takes over, once it was submitted.
    """

    job_id: int
    restarts: int
    phase: str
    updated: float
    url: str = ""
    error: str | None = None
    degraded: str | None = None
    deadline: float | None = None
    successor: int | None = None
    nodes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether every model is ready, idle or failed."""
        return bool(self.models) and all(
            model.get("state") in ("ready", "idle", "failed") for model in self.models.values()
        )


@dataclass(frozen=True)
class ServiceFolder:
    """Where a service of a user lies on the cluster's shared folder."""

    path: Path

    @classmethod
    def of(cls, shared: Path, user: str, name: str) -> ServiceFolder:
        return cls(shared / f"corral-{user}" / name)

    @property
    def address(self) -> Path:
        return self.path / "address.json"

    @property
    def settings(self) -> Path:
        return self.path / "settings.json"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    def create(self) -> None:
        """Make it, for its owner alone. Raises OSError."""
        for folder in (self.path.parent, self.path, self.jobs):
            folder.mkdir(mode=0o700, exist_ok=True)

    def new_job(self) -> ServiceJob:
        """A fresh job folder; its name sorts by time."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        job = ServiceJob(self.jobs / f"{stamp}-{secrets.token_hex(2)}")
        job.create()
        return job

    def all_jobs(self) -> list[ServiceJob]:
        """The job folders, the oldest first."""
        return [ServiceJob(path) for path in sorted(self.jobs.glob("*-*")) if path.is_dir()]

    def latest(self) -> ServiceJob | None:
        """The job to look at: what the address names, else the last that was submitted and is no joiner."""
        found = [(job, record) for job in self.all_jobs() if (record := job.record()) and record.kind != "joiner"]
        address = Address.read(self.address)
        for job, record in reversed(found):
            if address and record.job_id == address.job_id:
                return job
        return found[-1][0] if found else None


@dataclass(frozen=True)
class ServiceJob(JobFolder):
    """A job's folder with our records in it."""

    @property
    def service(self) -> ServiceFolder:
        return ServiceFolder(self.path.parent.parent)

    @property
    def job_file(self) -> Path:
        return self.path / "job.json"

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    @property
    def cluster_file(self) -> Path:
        return self.path / "cluster.json"

    @property
    def joins_file(self) -> Path:
        """In a joiner's folder: the path of the folder of the job that it adds nodes to."""
        return self.path / "joins"

    @property
    def deadline_file(self) -> Path:
        """Unix seconds at which SLURM ends the job; the batch shell keeps it up to date."""
        return self.path / "deadline"

    @property
    def nodes(self) -> Path:
        return self.path / "nodes"

    @property
    def token(self) -> Path:
        return self.path / "token"

    @property
    def progress(self) -> Path:
        return self.path / "progress"

    @property
    def submit(self) -> Path:
        return self.path / "submit"

    def node_file(self, node: str, group: str) -> Path:
        return self.nodes / f"{node}--{group}.json"

    def node_records(self) -> list[NodeRecord]:
        """What the nodes' agents say, those of joiners among them."""
        found = (NodeRecord.read(path) for path in sorted(self.nodes.glob("*.json")))
        return [record for record in found if record]

    def joined(self) -> ServiceJob:
        """The job that this one's nodes belong to: of a joiner another, else itself."""
        try:
            return ServiceJob(Path(self.joins_file.read_text()))
        except OSError:
            return self

    def deadline(self) -> float | None:
        try:
            return float(self.deadline_file.read_text())
        except (OSError, ValueError):
            return None

    def create(self) -> None:
        super().create()
        for folder in (self.nodes, self.progress, self.submit):
            folder.mkdir(mode=0o700, exist_ok=True)

    def record(self) -> JobRecord | None:
        return JobRecord.read(self.job_file)

    def status(self) -> JobStatus | None:
        return JobStatus.read(self.status_file)
