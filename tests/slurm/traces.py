"""What a user has on the nodes, or has left there."""

from __future__ import annotations

from pathlib import Path

from tests.slurm.cluster import SlurmCluster
from tests.slurm.machines import User


def traces(slurm: SlurmCluster, user: User) -> list[str]:
    """Processes, and files in /dev/shm and /tmp, on the nodes that are up."""
    found = [f"process {process.pid}" for process in slurm.processes(user)]
    for node in slurm.nodes:
        for folder in ("dev/shm", "tmp") if node.pid else ():
            place = Path(f"/proc/{node.pid}/root/{folder}")
            files = [path for path in place.iterdir() if path.lstat().st_uid == user.uid]
            found += [f"{node.name}:/{folder}/{path.name}" for path in files]
    return found


def listening(slurm: SlurmCluster, node: str) -> set[int]:
    """Ports of a node that somebody listens on."""
    said = slurm.room[node].enter("ss", "-Hltn").stdout
    return {int(line.split()[3].rsplit(":", 1)[1]) for line in said.splitlines()}
