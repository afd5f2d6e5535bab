"""What SLURM would let wait for ever, told before submission.

SLURM takes many impossible jobs and only says so in the reason they wait for (seen on 22.05: a walltime past the
limit, more nodes or CPUs than there are, an account that may not use the partition).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from slurm.config import MIB, ClusterConfig, NodeGroup
from slurm.partitions import NodeKind, Partition
from slurm.walltime import format_walltime

GIB = 1 << 30


def check(config: ClusterConfig, partitions: Sequence[Partition]) -> list[str]:
    """One line for each problem: the field, what is wrong, what would work. Empty if the job could run."""
    problems: list[str] = []
    for group, component in zip(config.groups, config.components, strict=True):
        field = f"groups.{group.name}.partition" if group.partition else "partition"
        chosen, problem = _choose(field, component, partitions)
        if problem:
            problems.append(problem)
            continue
        problems += _walltime(config, chosen)
        problems += _shape(f"groups.{group.name}", component, chosen)
    return list(dict.fromkeys(problems))


def _choose(field: str, group: NodeGroup, partitions: Sequence[Partition]) -> tuple[list[Partition], str | None]:
    """The partitions that the group asks for (SLURM takes the first that can), or why there are none."""
    names = group.partition.split(",") if group.partition else [p.name for p in partitions if p.default]
    known = {partition.name: partition for partition in partitions}
    listed = ", ".join(sorted(known)) or "none"
    if not names:
        return [], f"{field}: this cluster has no default partition; set one of {listed}"
    for name in names:
        if name not in known:
            return [], f"{field}: there is no partition {name!r}; there are {listed}"
    up = [known[name] for name in names if known[name].up]
    if not up:
        others = ", ".join(sorted(name for name in known if known[name].up)) or "none"
        return [], f"{field}: {', '.join(names)} is down; up are {others}"
    return up, None


def _walltime(config: ClusterConfig, chosen: Sequence[Partition]) -> list[str]:
    limits = [partition.max_time for partition in chosen if partition.max_time is not None]
    if len(limits) < len(chosen) or config.walltime <= max(limits):
        return []
    return [
        f"walltime: {format_walltime(config.walltime)} is past the limit of {_names(chosen)}; "
        f"at most {format_walltime(max(limits))}"
    ]


def _shape(field: str, group: NodeGroup, chosen: Sequence[Partition]) -> list[str]:
    """What no node has; if there are such nodes, whether there are enough."""
    kinds = [kind for partition in chosen for kind in partition.kinds]
    where = _names(chosen)
    problems = [
        *_features(field, group, kinds, where),
        *_gpus(field, group, kinds, where),
        *_most(f"{field}.cpus", group.cpus, kinds, lambda kind: kind.cpus, str, where),
        *_most(f"{field}.memory", group.memory, kinds, lambda kind: kind.memory, _size, where),
    ]
    return problems or _enough(field, group, chosen)


def _features(field: str, group: NodeGroup, kinds: Sequence[NodeKind], where: str) -> list[str]:
    known = frozenset[str]().union(*(kind.features for kind in kinds))
    wanted = [word for word in re.split(r"[&|,()\[\]!*]+", group.constraint or "") if word and not word.isdigit()]
    return [
        f"{field}.constraint: no node of {where} has the feature {word!r}; there are {_listed(known)}"
        for word in wanted
        if word not in known
    ]


def _gpus(field: str, group: NodeGroup, kinds: Sequence[NodeKind], where: str) -> list[str]:
    if not group.gpus:
        return []
    types = {name for kind in kinds for name in kind.gpus}
    if not types:
        return [f"{field}.gpus: no node of {where} has GPUs; choose another partition, or set gpus: 0"]
    if group.gpu_type and group.gpu_type not in types:
        return [f"{field}.gpu_type: no node of {where} has {group.gpu_type!r}; there are {_listed(types)}"]
    return _most(f"{field}.gpus", group.gpus, kinds, lambda kind: _count(kind, group.gpu_type), str, where)


def _most(
    field: str,
    wanted: int | None,
    kinds: Sequence[NodeKind],
    has: Callable[[NodeKind], int],
    show: Callable[[int], str],
    where: str,
) -> list[str]:
    most = max(map(has, kinds), default=0)
    if wanted is None or wanted <= most:
        return []
    return [f"{field}: {show(wanted)} is more than any node of {where} has; at most {show(most)}"]


def _enough(field: str, group: NodeGroup, chosen: Sequence[Partition]) -> list[str]:
    """A job gets its nodes from one partition."""
    most = max(sum(kind.count for kind in partition.kinds if _fits(group, kind)) for partition in chosen)
    if group.nodes <= most:
        return []
    if not most:
        return [f"{field}: no single node of {_names(chosen)} has all that is asked for; ask for less on each node"]
    return [f"{field}.nodes: {group.nodes} is more than the {most} such nodes of {_names(chosen)}; at most {most}"]


def _fits(group: NodeGroup, kind: NodeKind) -> bool:
    enough = kind.cpus >= (group.cpus or 0) and kind.memory >= (group.memory or 0)
    return enough and _count(kind, group.gpu_type) >= group.gpus


def _count(kind: NodeKind, gpu_type: str | None) -> int:
    return kind.gpus.get(gpu_type, 0) if gpu_type else sum(kind.gpus.values())


def _names(partitions: Sequence[Partition]) -> str:
    return f"partition {', '.join(partition.name for partition in partitions)}"


def _listed(names: set[str] | frozenset[str]) -> str:
    return ", ".join(sorted(name or "(no type)" for name in names)) or "none"


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size // MIB} MiB"
