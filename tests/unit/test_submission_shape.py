"""Groups of nodes: those that a profile names, checked, and those that its models need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings, SettingsError
from app.submission.gpu_names import Match, match
from app.submission.shape import shaped
from slurm.config import NodeGroup
from slurm.partitions import NodeKind, Partition
from tests.unit.submission import settings

GIB = 1 << 30
SMALL = NodeKind(8, cpus=32, memory=512 * GIB, gpus={"a100": 4})
LARGE = NodeKind(2, cpus=96, memory=1024 * GIB, gpus={"nvidia_h200": 8})
CPU = NodeKind(4, cpus=16, memory=64 * GIB)
CLUSTER = [
    Partition("cpu", True, True, None, (CPU,)),
    Partition("gpu", True, False, None, (SMALL, LARGE)),
]


def model(gpu_type: str | None = None, parallel: int = 1, replicas: int = 1, **labels: str) -> dict[str, Any]:
    hardware = {"gpu_type": gpu_type, "labels": labels}
    scaling = {"min_replicas": replicas, "max_replicas": max(1, replicas)}
    return {"source": "pocket:pocket-1b", "tensor_parallel": parallel, "hardware": hardware, "autoscaling": scaling}


def groups(made: Settings) -> dict[str, NodeGroup]:
    assert made.cluster is not None
    return {group.name: group for group in made.cluster.groups}


def shape(models: dict[str, Any], cluster: list[Partition] = CLUSTER, **changes: Any) -> Settings:
    return shaped(settings(Path("/shared"), models, **changes), cluster)


def test_models_on_cpus_need_no_groups() -> None:
    made = shape({"a": {"source": "pocket:pocket-1b", "hardware": {"kind": "cpu"}}})
    assert groups(made) == {"main": NodeGroup()}


def test_each_type_gets_a_group_and_its_models_go_there() -> None:
    made = shape({"a": model("A100"), "b": model("A100", 2), "c": model("H200", 4), "d": model("A100", replicas=0)})
    assert groups(made) == {
        "a100": NodeGroup(name="a100", nodes=1, gpus=4, gpu_type="a100", cpus=32, memory=486 * GIB, partition="gpu"),
        "h200": NodeGroup(
            name="h200", nodes=1, gpus=4, gpu_type="nvidia_h200", cpus=48, memory=486 * GIB, partition="gpu"
        ),
    }
    assert {key: spec.hardware.labels for key, spec in made.models.items()} == {
        "a": {"group": "a100"}, "b": {"group": "a100"}, "c": {"group": "h200"}, "d": {"group": "a100"},
    }  # fmt: skip


def test_what_one_node_cannot_hold_takes_whole_nodes() -> None:
    made = shape({"a": model("A100", 4), "b": model("A100", 3)}, partition="gpu")
    group = groups(made)["a100"]
    assert (group.nodes, group.gpus, group.partition) == (2, 4, None)


def test_any_gpu_is_what_most_nodes_have() -> None:
    assert groups(shape({"a": model()}))["gpu"].partition == "gpu"


def test_where_nobody_can_be_asked_nodes_have_eight_gpus() -> None:
    group = groups(shape({"a": model("H100", 8), "b": model("H100", 8)}, []))["h100"]
    assert (group.nodes, group.gpus, group.gpu_type, group.cpus, group.memory) == (2, 8, "h100", None, None)


def test_groups_that_are_given_stay() -> None:
    given = [
        {"name": "big", "gpus": 8, "gpu_type": "nvidia_h200", "labels": {"tier": "top"}},
        {"name": "rest", "gpus": 1},
    ]
    made = shape({"a": model("H200", 8, tier="top"), "b": model(group="rest")}, groups=given)
    assert list(groups(made)) == ["big", "rest"]
    assert made.models["b"].hardware.labels == {"group": "rest"}


@pytest.mark.parametrize(
    ("models", "changes", "told"),
    [
        (
            {"a": model("H100")},
            {},
            "models.a.hardware.gpu_type: no node of this cluster has H100; there are a100, nvidia_h200",
        ),
        (
            {"a": model("A100", 8)},
            {},
            "models.a.tensor_parallel: 8 is more than the 4 GPUs of a node of partition gpu; at most 4",
        ),
        (
            {"a": model("A100", tier="x")},
            {},
            "models.a.hardware.labels: no group has tier=x, group=a100; cluster.groups offer group=a100",
        ),
        (
            {"a": model("H100")},
            {"groups": [{"gpus": 1, "gpu_type": "a100"}]},
            "models.a.hardware.gpu_type: no group has H100; cluster.groups have a100",
        ),
        (
            {"a": model(None, 8)},
            {"groups": [{"gpus": 4, "nodes": 2}]},
            "models.a.tensor_parallel: 8 is more than the 4 GPUs of a node of group main; at most 4",
        ),
        (
            {"a": model(None, 4), "b": model(None, 4, replicas=2)},
            {"groups": [{"gpus": 4, "nodes": 2}]},
            "cluster.groups.main.nodes: a, b need 12 GPUs on 3 nodes at least, main has 8 on 2",
        ),
        (
            {"a": model(None, 3, replicas=2), "b": model(None, 2)},
            {"groups": [{"gpus": 4, "nodes": 2}]},
            "cluster.groups.main.nodes: a, b need 8 GPUs on 3 nodes at least, main has 8 on 2",
        ),
        (
            {"a": model(None, 2, group="one"), "b": model()},
            {"groups": [{"name": "one", "gpus": 1}, {"name": "two", "gpus": 8}]},
            "models.a.tensor_parallel: 2 is more than the 1 GPUs of a node of group one",
        ),
    ],
)
def test_a_model_without_a_place_is_told(models: dict[str, Any], changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        shape(models, **changes)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("wanted", "slurm", "matches"),
    [
        ("H100", "h100", Match.YES),
        ("H100", "nvidia_h100_80gb_hbm3", Match.YES),
        ("A100-80G", "nvidia_a100-sxm4-80gb", Match.YES),
        ("A100-80G", "a100", Match.YES),
        ("A100-80G", "a100_40gb", Match.NO),
        ("RTX-PRO-6000", "rtx_pro_6000_blackwell", Match.YES),
        ("L4", "l40s", Match.NO),
        ("H100", "h200", Match.NO),
        ("H100", "fast", Match.PERHAPS),
        ("H100", None, Match.PERHAPS),
        (None, "h200", Match.YES),
    ],
)
def test_one_gpu_has_two_names(wanted: str | None, slurm: str | None, matches: Match) -> None:
    assert match(wanted, slurm) is matches
