"""What a cluster could leave on the host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.slurm.cluster import SlurmCluster

KINDS = ("net", "uts", "mnt", "pid", "ipc")


@dataclass(frozen=True)
class Leftovers:
    """Taken while the cluster is up; `left` says what of it is still there."""

    folder: Path
    namespaces: frozenset[str]
    card: str

    @classmethod
    def of(cls, slurm: SlurmCluster) -> Leftovers:
        spaces = {space for machine in slurm.room for space in _namespaces(machine.pid)}
        return cls(slurm.folder, frozenset(spaces), slurm.room.switch.cable)

    def left(self) -> list[str]:
        processes = [f"process {pid}" for pid in psutil.pids() if self.namespaces & set(_namespaces(pid))]
        mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if self.folder.name in line]
        cgroups = [str(path) for path in Path("/sys/fs/cgroup").rglob(self.folder.name)]
        folders = [str(self.folder)] if self.folder.exists() else []
        cards = [self.card] if self.card in psutil.net_if_addrs() else []
        return [*processes, *mounts, *cgroups, *folders, *cards]


def _namespaces(pid: int) -> list[str]:
    try:
        return [str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in KINDS]
    except OSError:
        return []
