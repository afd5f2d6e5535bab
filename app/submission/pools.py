"""The nodes of a cluster that have one type of GPU, as sinfo tells of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ByteSize

from app.settings import SettingsError
from app.submission.gpu_names import Match, match
from slurm.partitions import NodeKind, Partition

GPUS_PER_NODE = 8
"""Where nobody could be asked."""
GIB = 1 << 30
LEFT_TO_THE_SYSTEM = 0.95
"""Of a node's memory jobs get this share: some sites keep a little for the system, and sinfo does not say how much."""


@dataclass(frozen=True)
class Pool:
    """Nodes with GPUs of one type. cpus and memory (bytes) are a node's, None if unknown.

    gpu_type:  SLURM's name of it, if it has one.
    partition: to be asked for, if it is not the profile's or the default one.
    """

    where: str
    gpus: int = GPUS_PER_NODE
    gpu_type: str | None = None
    cpus: int | None = None
    memory: int | None = None
    partition: str | None = None

    def share_of_cpus(self, gpus: int) -> int | None:
        return None if self.cpus is None else max(1, self.cpus * gpus // self.gpus)

    def share_of_memory(self, gpus: int) -> ByteSize | None:
        """In whole GiB, if there is as much."""
        if self.memory is None:
            return None
        share = int(self.memory * LEFT_TO_THE_SYSTEM) * gpus // self.gpus
        return ByteSize(share // GIB * GIB or share)


def find_pool(model: str, gpu_type: str | None, asked: str | None, partitions: Sequence[Partition]) -> Pool:
    """Where the model's GPUs are: in the partitions `asked` for, else in the default one, else in any that is up.

    Raises SettingsError if there are none.
    """
    if not partitions:
        return Pool("the cluster", gpu_type=gpu_type.lower() if gpu_type else None)
    names = asked.split(",") if asked else [each.name for each in partitions if each.default]
    first = [each for each in partitions if each.name in names]
    others = [] if asked else [each for each in partitions if each not in first and each.up]
    for pool, partition in ((first, None), *(([each], each.name) for each in others)):
        if found := _best(pool, gpu_type, partition):
            return found
    raise SettingsError(_nowhere(model, gpu_type, asked, first if asked else partitions))


def _best(partitions: Sequence[Partition], gpu_type: str | None, partition: str | None) -> Pool | None:
    """The nodes that match best; of those, the type of which there are most."""
    ranked = [
        ((match(gpu_type, name), kind.count), each, kind, name)
        for each in partitions
        for kind in each.kinds
        for name in kind.gpus
        if match(gpu_type, name) > Match.NO
    ]
    if not ranked:
        return None
    _, where, kind, name = max(ranked, key=lambda row: row[0])
    return _pool(where, kind, name if gpu_type or len(kind.gpus) > 1 else "", partition)


def _pool(where: Partition, kind: NodeKind, gpu_type: str, partition: str | None) -> Pool:
    gpus = kind.gpus[gpu_type] if gpu_type in kind.gpus else max(kind.gpus.values())
    return Pool(f"partition {where.name}", gpus, gpu_type or None, kind.cpus, kind.memory, partition)


def _nowhere(model: str, gpu_type: str | None, asked: str | None, partitions: Sequence[Partition]) -> str:
    where = f"partition {asked}" if asked else "this cluster"
    types = {name for each in partitions for kind in each.kinds for name in kind.gpus}
    listed = ", ".join(sorted(name or "(no type)" for name in types))
    if not listed:
        return f"models.{model}.hardware: no node of {where} has GPUs; choose another cluster.partition, or kind: cpu"
    return f"models.{model}.hardware.gpu_type: no node of {where} has {gpu_type}; there are {listed}"
