"""The job folder: what the submitter, the batch script and the nodes leave for each other on the shared disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class JobFolder:
    """One job's folder, also across requeues. Secrets in it are files of mode 0600.

    drain: exists once the walltime (or an order) says that no new requests are to be taken.
    stop:  exists once the job is to end; the workers' processes watch for it too.
    timeline: lines `<unix seconds> <event> <node>`; the event may have spaces, the node has none.
    """

    path: Path

    @property
    def script(self) -> Path:
        return self.path / "job.sh"

    @property
    def drain(self) -> Path:
        return self.path / "drain"

    @property
    def stop(self) -> Path:
        return self.path / "stop"

    @property
    def timeline(self) -> Path:
        return self.path / "timeline"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def job_log(self) -> Path:
        """What the batch script says, also of steps that ended."""
        return self.logs / "job.log"

    def node_log(self, node: str) -> Path:
        """What a node's step and its srun say."""
        return self.logs / f"node-{node}.log"

    def create(self) -> None:
        """Make it, for its owner alone. SLURM fails a job whose log has no folder."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.logs.mkdir(exist_ok=True, mode=0o700)
