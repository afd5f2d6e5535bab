"""A service that a user of the test cluster runs, as that user sees it from the login machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from app.access.key_store import FIRST_KEY
from app.allocation.records import Address, JobStatus, ServiceFolder, ServiceJob
from slurm.timeline import Start, parse_timeline, starts
from tests.slurm.cluster import SlurmCluster
from tests.slurm.machines import User
from tests.waiting import PATIENCE_S, until

CORRAL = str(Path(sys.executable).with_name("corral"))
READY_S = 240
HELLO = [{"role": "user", "content": "Hello! Who are you?"}]


def small_model(**more: Any) -> dict[str, Any]:
    """The smallest Llama of the pocket herd. A node has 4 CPUs; by its share one replica fits on each."""
    hardware = {"kind": "cpu", "cpus": 2.5, **more.pop("hardware", {})}
    return {
        "source": "pocket:pocket-1b", "hardware": hardware, "dtype": "float32", "context_tokens": 1024,
        "max_sequences": 8, "kv_cache": "32 MiB", "eager": True, **more,
    }  # fmt: skip


def profile(slurm: SlurmCluster, models: dict[str, Any], **cluster: Any) -> dict[str, Any]:
    allocation = {"walltime": "0:20:00", "shared": str(slurm.shared), "drain_s": 60, **cluster}
    return {"models": models, "ray": {"object_store": "80 MiB"}, "cluster": allocation}


def nodes(count: int, cpus: int = 3, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "main", "nodes": count, "cpus": cpus, "memory": "2 GiB", **more}]


@dataclass(frozen=True)
class SlurmService:
    """`corral slurm ...` of one user and one name."""

    slurm: SlurmCluster
    user: User
    name: str

    def corral(
        self, *arguments: str, check: bool = True, timeout_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        return self._corral("slurm", *arguments, check=check, timeout_s=timeout_s)

    def _corral(self, *arguments: str, check: bool, timeout_s: float) -> subprocess.CompletedProcess[str]:
        path = f"{Path(CORRAL).parent}:{self.user.environment['PATH']}"
        variables = {"PATH": path, "CORRAL_NAME": self.name, "COLUMNS": "200"}
        return self.slurm.login.enter(
            CORRAL, *arguments, user=self.user, env=variables, check=check, timeout_s=timeout_s
        )

    def apply(self, content: dict[str, Any]) -> dict[str, Any]:
        """Give the running service another profile; returns how that ended."""
        options = ("--profile", str(self.write_profile(content)), "--json")
        told: dict[str, Any] = json.loads(self._corral("apply", *options, check=True, timeout_s=READY_S).stdout)
        return told

    def monitoring(self) -> dict[str, str]:
        """What `corral monitoring` has written for Prometheus, and the command that starts it."""
        told: dict[str, str] = json.loads(self._corral("monitoring", "--json", check=True, timeout_s=PATIENCE_S).stdout)
        return told

    def json(self, *arguments: str) -> Any:
        return json.loads(self.corral(*arguments, "--json").stdout)

    def write_profile(self, content: dict[str, Any]) -> Path:
        path = self.user.home / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        os.chown(path, self.user.uid, self.user.uid)
        return path

    def up(self, content: dict[str, Any]) -> str:
        """Submit and wait until its models answer; returns what a person sees while waiting."""
        path = self.write_profile(content)
        return self.corral("up", "--profile", str(path), timeout_s=READY_S).stderr

    def submit(self, content: dict[str, Any]) -> int:
        """Submit and return at once: the job's id."""
        path = self.write_profile(content)
        done = self.corral("up", "--no-wait", "--profile", str(path), "--json")
        return int(json.loads(done.stdout)["job_id"])

    def down(self) -> None:
        self.corral("down", check=False)

    @property
    def folder(self) -> ServiceFolder:
        return ServiceFolder.of(self.slurm.shared, self.user.name, self.name)

    @property
    def key_file(self) -> Path:
        """The user's first key, which all their services take."""
        return self.folder.path.with_name(FIRST_KEY)

    @property
    def key(self) -> dict[str, str]:
        """The header that a request is let in with."""
        return {"authorization": f"Bearer {self.key_file.read_text().strip()}"}

    @property
    def job(self) -> ServiceJob:
        job = self.folder.latest()
        assert job is not None, f"{self.name} was not submitted"
        return job

    @property
    def status(self) -> JobStatus:
        status = until(self.job.status, what="a status")
        assert status is not None
        return status

    @property
    def address(self) -> Address:
        address = until(lambda: Address.read(self.folder.address), what="an address")
        assert address is not None
        return address

    def replicas(self, model: str) -> int:
        return int(self.status.models.get(model, {}).get("replicas", 0))

    def until_ready(self) -> JobStatus:
        until(lambda: self.status.settled and self.status.phase == "serving", READY_S, f"{self.name} ready")
        return self.status

    def ask(self, model: str, url: str = "") -> httpx.Response:
        body = {"model": model, "messages": HELLO, "max_tokens": 24, "temperature": 0}
        address = url or self.address.url
        return httpx.post(
            f"{address}/v1/chat/completions", json=body, headers=self.key, timeout=PATIENCE_S, trust_env=False
        )

    def start(self) -> Start:
        """The last start of the job, out of its timeline."""
        return starts(parse_timeline(self.job.timeline.read_text()))[-1]

    def logs(self) -> str:
        """The end of every log, for a failed test."""
        files = sorted(self.folder.path.rglob("*.log"))
        return "\n".join(f"== {file.relative_to(self.folder.path)}\n{file.read_text()[-2000:]}" for file in files)
