"""Allocation: what a job sees of itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slurm.errors import NotInJob
from slurm.hostlist import expand_hostlist

Expand = Callable[[str], tuple[str, ...]]


@dataclass(frozen=True)
class Allocation:
    """One job, seen from inside.

    job_id:   of a heterogeneous job the leader's, in all of its components.
    groups:   the nodes of each component; an ordinary job has one.
    deadline: unix seconds at which SLURM ends the job, or None if it does not say. `SlurmClient.job` knows it anew
              after an extension.
    restarts: how often the job was requeued.
    node:     the node this process is on; None in tests and on odd set-ups.
    gpus:     ids of this step's GPUs on this node, as CUDA_VISIBLE_DEVICES has them.
    cpus:     logical CPUs of the job on this node.
    """

    job_id: int
    groups: tuple[tuple[str, ...], ...]
    deadline: float | None = None
    restarts: int = 0
    node: str | None = None
    gpus: tuple[str, ...] = ()
    cpus: int | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], expand: Expand = expand_hostlist) -> Allocation:
        """Read what SLURM set. Raises NotInJob, naming what is missing or cannot be read."""
        return cls(
            job_id=_number(environ, "SLURM_JOB_ID_HET_GROUP_0") or _required(environ, "SLURM_JOB_ID"),
            groups=tuple(_nodes(environ, name, expand) for name in _lists(environ)),
            deadline=_deadline(environ),
            restarts=_number(environ, "SLURM_RESTART_COUNT") or 0,
            node=environ.get("SLURMD_NODENAME") or None,
            gpus=_gpus(environ),
            cpus=_number(environ, "SLURM_CPUS_ON_NODE"),
        )

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every node once, the head first."""
        return tuple(dict.fromkeys(node for group in self.groups for node in group))

    @property
    def head(self) -> str:
        """The first node of the first group."""
        return self.groups[0][0]

    def remaining_s(self, now: float) -> float | None:
        """Seconds until the deadline (0 once it is past), seen from the unix time `now`."""
        return None if self.deadline is None else max(0.0, self.deadline - now)


def _lists(environ: Mapping[str, str]) -> list[str]:
    """The variables that hold the components' hostlists, in order."""
    size = _number(environ, "SLURM_HET_SIZE")
    if not size:
        return ["SLURM_JOB_NODELIST"]
    return [f"SLURM_JOB_NODELIST_HET_GROUP_{index}" for index in range(size)]


def _nodes(environ: Mapping[str, str], name: str, expand: Expand) -> tuple[str, ...]:
    text = environ.get(name)
    if not text:
        raise NotInJob(f"{name} is not set: this does not run in a SLURM job")
    try:
        return expand(text)
    except ValueError as error:
        raise NotInJob(f"{name}: {error}") from None


def _required(environ: Mapping[str, str], name: str) -> int:
    number = _number(environ, name)
    if number is None:
        raise NotInJob(f"{name} is not set: this does not run in a SLURM job")
    return number


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if not text:
        return None
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise NotInJob(f"{name} is {text!r}, which is not a number")
    return int(text)


def _deadline(environ: Mapping[str, str]) -> float | None:
    end = _number(environ, "SLURM_JOB_END_TIME")
    return float(end) if end else None


def _gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    listed = environ.get("CUDA_VISIBLE_DEVICES", "")
    return tuple(gpu for gpu in listed.split(",") if gpu and gpu != "NoDevFiles")
