"""Partition: what sinfo says of the nodes a job could get."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby

from slurm.config import MIB
from slurm.walltime import parse_limit

SEPARATOR = "\x1f"
FORMAT = SEPARATOR.join(("%P", "%a", "%l", "%D", "%c", "%m", "%G", "%T", "%f"))
"""What to give `sinfo --exact -o`."""

_GPU = re.compile(r"gpu(?::(?P<type>[^:,()]+))??:(?P<count>\d+)(\(|,|$)", re.ASCII)


@dataclass(frozen=True)
class NodeKind:
    """Nodes of the same make and state. Memory is bytes; gpus: type ("" if SLURM has none) -> count per node."""

    count: int
    cpus: int
    memory: int
    gpus: Mapping[str, int] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    state: str = "idle"


@dataclass(frozen=True)
class Partition:
    """A partition; max_time None means no limit."""

    name: str
    up: bool
    default: bool
    max_time: timedelta | None
    kinds: tuple[NodeKind, ...]

    @property
    def nodes(self) -> int:
        return sum(kind.count for kind in self.kinds)


def parse_partitions(text: str) -> list[Partition]:
    """What `sinfo -h --exact -o FORMAT` printed. Raises ValueError if it was something else."""
    rows = sorted((_row(line) for line in text.splitlines() if line.strip()), key=lambda row: row[0])
    return [_partition(list(group)) for _, group in groupby(rows, key=lambda row: row[0])]


def _row(line: str) -> list[str]:
    row = [value.strip() for value in line.split(SEPARATOR)]
    if len(row) != FORMAT.count(SEPARATOR) + 1:
        raise ValueError(f"sinfo printed a line that cannot be read: {line[:200]!r}")
    return row


def _partition(rows: list[list[str]]) -> Partition:
    name, available, limit = rows[0][:3]
    return Partition(
        name=name.removesuffix("*"),
        up=available == "up",
        default=name.endswith("*"),
        max_time=parse_limit(limit),
        kinds=tuple(_kind(row) for row in rows if row[3] != "0"),
    )


def _kind(row: list[str]) -> NodeKind:
    _, _, _, count, cpus, memory_mib, gres, state, features = row
    return NodeKind(
        count=int(count),
        cpus=int(cpus.removesuffix("+")),
        memory=int(memory_mib.removesuffix("+")) * MIB,
        gpus=parse_gpus(gres),
        features=frozenset() if features == "(null)" else frozenset(features.split(",")),
        state=state.rstrip("*~#!%$@^-+"),
    )


def parse_gpus(gres: str) -> dict[str, int]:
    """gpu:h200:4(S:0-1),nic:1 -> {"h200": 4}."""
    gpus: dict[str, int] = {}
    for entry in re.split(r",(?![^(]*\))", gres):
        if match := _GPU.match(entry):
            kind = match["type"] or ""
            gpus[kind] = gpus.get(kind, 0) + int(match["count"])
    return gpus
