"""What is told before submission: fields, and what would work."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from slurm.check import check
from slurm.config import ClusterConfig
from slurm.partitions import SEPARATOR, NodeKind, Partition, parse_gpus, parse_partitions

GIB = 1 << 30
CPU = NodeKind(4, cpus=16, memory=64 * GIB, features=frozenset({"ib", "old"}))
SMALL = NodeKind(8, cpus=32, memory=256 * GIB, gpus={"a40": 4}, features=frozenset({"ib"}))
LARGE = NodeKind(2, cpus=96, memory=1024 * GIB, gpus={"h200": 8}, features=frozenset({"ib", "nvlink"}))
CLUSTER = [
    Partition("cpu", True, True, timedelta(days=2), (CPU,)),
    Partition("gpu", True, False, None, (SMALL, LARGE)),
    Partition("closed", False, False, None, (CPU,)),
]


def problems(cluster: list[Partition] = CLUSTER, walltime: str = "1:00:00", **changes: Any) -> list[str]:
    return check(ClusterConfig(walltime=walltime, shared="/shared", **changes), cluster)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"walltime": "2-0"},
        {"partition": "cpu,gpu", "walltime": "9-0"},
        {"partition": "gpu", "groups": [{"nodes": 10, "gpus": 4}]},
        {"partition": "gpu", "groups": [{"nodes": 2, "gpus": 8, "gpu_type": "h200", "memory": "1 TiB", "cpus": 96}]},
        {"partition": "gpu", "constraint": "[ib&nvlink|ib*2]"},
        {"groups": [{"name": "a"}, {"name": "b", "partition": "gpu", "gpus": 1}]},
    ],
)
def test_what_the_cluster_has_is_no_problem(changes: dict[str, Any]) -> None:
    assert problems(**changes) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"partition": "gpus"}, "partition: there is no partition 'gpus'; there are closed, cpu, gpu"),
        ({"partition": "closed"}, "partition: closed is down; up are cpu, gpu"),
        (
            {"walltime": "3-0"},
            "walltime: 3-00:00:00 is past the limit of partition cpu; at most 2-00:00:00",
        ),
        ({"groups": [{"gpus": 1}]}, "groups.main.gpus: no node of partition cpu has GPUs; choose another partition"),
        (
            {"partition": "gpu", "groups": [{"gpus": 1, "gpu_type": "h100"}]},
            "groups.main.gpu_type: no node of partition gpu has 'h100'; there are a40, h200",
        ),
        (
            {"partition": "gpu", "groups": [{"gpus": 16}]},
            "groups.main.gpus: 16 is more than any node of partition gpu has; at most 8",
        ),
        (
            {"partition": "gpu", "groups": [{"gpus": 5, "gpu_type": "a40"}]},
            "groups.main.gpus: 5 is more than any node of partition gpu has; at most 4",
        ),
        ({"groups": [{"cpus": 17}]}, "groups.main.cpus: 17 is more than any node of partition cpu has; at most 16"),
        (
            {"groups": [{"memory": "65 GiB"}]},
            "groups.main.memory: 65.0 GiB is more than any node of partition cpu has; at most 64.0 GiB",
        ),
        ({"groups": [{"nodes": 5}]}, "groups.main.nodes: 5 is more than the 4 such nodes of partition cpu; at most 4"),
        (
            {"partition": "gpu", "groups": [{"gpus": 4, "gpu_type": "a40", "memory": "1 TiB"}]},
            "groups.main: no single node of partition gpu has all that is asked for; ask for less on each node",
        ),
        (
            {"constraint": "ib&nvlink"},
            "groups.main.constraint: no node of partition cpu has the feature 'nvlink'; there are ib, old",
        ),
        (
            {"groups": [{"name": "a", "partition": "none"}]},
            "groups.a.partition: there is no partition 'none'; there are closed, cpu, gpu",
        ),
    ],
)
def test_what_could_never_run_is_one_line(changes: dict[str, Any], told: str) -> None:
    (problem,) = problems(**changes)
    assert problem.startswith(told)
    assert "\n" not in problem


def test_every_problem_is_told_once() -> None:
    groups = [{"name": "a", "cpus": 99}, {"name": "b", "nodes": 99}]
    assert [line.partition(":")[0] for line in problems(walltime="3-0", groups=groups)] == [
        "walltime", "groups.a.cpus", "groups.b.nodes",
    ]  # fmt: skip


def test_a_cluster_without_a_default_partition_says_so() -> None:
    cluster = [replace(CLUSTER[1])]
    assert problems(cluster) == ["partition: this cluster has no default partition; set one of gpu"]


# --- what sinfo says ---


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", {}),
        ("gpu:2", {"": 2}),
        ("gpu:h200:4", {"h200": 4}),
        ("gpu:h200:4(S:0-1),nic:2", {"h200": 4}),
        ("gpu:a40:2(S:0,2),gpu:h200:1(S:1)", {"a40": 2, "h200": 1}),
        ("gpu:2080:8", {"2080": 8}),
        ("shard:8,mps:100", {}),
    ],
)
def test_gpus_are_read_from_gres(gres: str, gpus: dict[str, int]) -> None:
    assert parse_gpus(gres) == gpus


SINFO = """\
debug*|up|2-00:00:00|1|8|12000|(null)|idle|fast,ib
big|up|infinite|1|8|12000|(null)|idle|fast,ib
big|up|infinite|3|16|64000+|gpu:h200:4(S:0-1)|unknown*|ib
closed|down|30:00|3|16|64000|(null)|mixed-|(null)
empty|up|infinite|0|0|0|(null)|n/a|
"""


def test_partitions_are_read_from_sinfo() -> None:
    big, closed, debug, empty = parse_partitions(SINFO.replace("|", SEPARATOR))
    assert (debug.name, debug.default, debug.max_time) == ("debug", True, timedelta(days=2))
    assert (big.max_time, big.nodes) == (None, 4)
    assert big.kinds[1] == NodeKind(3, 16, 64000 << 20, {"h200": 4}, frozenset({"ib"}), "unknown")
    assert (closed.up, closed.kinds[0].state, closed.kinds[0].features) == (False, "mixed", frozenset())
    assert empty.kinds == ()


def test_what_sinfo_never_prints_is_refused() -> None:
    with pytest.raises(ValueError, match="sinfo printed a line that cannot be read"):
        parse_partitions("sinfo: warning\n")
