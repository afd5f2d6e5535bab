"""What the tests of submissions share: a profile with a shared folder, and a fake SLURM to submit it to."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.allocation.records import Address, JobStatus, ServiceFolder
from app.settings import Settings
from app.submission.submit import Submitted, submit
from tests.unit.slurm_fake import Clock, FakeSlurm, client, no_sleep

MODELS: dict[str, Any] = {"small": {"source": "pocket:pocket-1b", "hardware": {"kind": "cpu"}}}
READY = {"small": {"id": "small", "state": "ready", "replicas": 1, "target_replicas": 1}}


def settings(shared: Path, models: Mapping[str, Any] = MODELS, **cluster: Any) -> Settings:
    return Settings(models=dict(models), cluster={"walltime": "1:00:00", "shared": str(shared), **cluster})


@dataclass
class Site:
    """A login node: the folder that it shares with the nodes, and its SLURM."""

    shared: Path
    slurm: FakeSlurm
    clock: Clock

    @classmethod
    def at(cls, folder: Path) -> Site:
        shared = folder / "shared"
        shared.mkdir()
        return cls(shared, FakeSlurm(getpass.getuser()), Clock())

    def settings(self, models: Mapping[str, Any] = MODELS, **cluster: Any) -> Settings:
        return settings(self.shared, models, **cluster)

    async def submit(self, profile: Settings | None = None, name: str = "herd", **options: Any) -> Submitted:
        return await submit(
            profile or self.settings(), name, "mine.yaml", client(self.slurm),
            sleep=no_sleep, clock=self.clock, **options,
        )  # fmt: skip

    @property
    def folder(self) -> ServiceFolder:
        return ServiceFolder.of(self.shared, getpass.getuser(), "herd")

    def says(self, submitted: Submitted, phase: str, **changes: Any) -> None:
        """What the head of the job writes."""
        JobStatus(submitted.job_id, 0, phase, self.clock(), **changes).write(submitted.job.status_file)

    def serves(self, submitted: Submitted, **tls: str) -> None:
        """tls: scheme, certificate and fingerprint of its address."""
        nodes = {"n1": {"group": "main", "state": "joined", "detail": ""}}
        self.says(submitted, "serving", nodes=nodes, models=READY)
        Address(submitted.job_id, "n1", "10.0.0.1", 8000, self.clock(), **tls).write(self.folder.address)
