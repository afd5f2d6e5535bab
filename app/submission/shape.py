"""Which groups of nodes a profile needs: those it names, checked against its models, or derived from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from app.fit import Site
from app.plan import Allocation, plan
from app.settings import Settings, SettingsError
from app.submission.gpu_names import Match, match
from app.submission.pools import Pool, find_pool
from app.submission.spec import cluster_of
from deployments.config import ModelSpec
from slurm.config import NodeGroup
from slurm.partitions import Partition

GROUP = "group"
"""The label that every group has by itself; its value is the group's name."""


def shaped(settings: Settings, partitions: Sequence[Partition] = ()) -> Settings:
    """The settings with the groups that the job gets. Raises SettingsError, a line for each model without a place.

    partitions: what the cluster has, if that could be asked.
    """
    config = cluster_of(settings)
    if "groups" not in config.model_fields_set and any(spec.gpus for spec in settings.models.values()):
        settings = _derived(settings, partitions)
    if problems := _problems(settings):
        raise SettingsError(*problems)
    return settings


def _derived(settings: Settings, partitions: Sequence[Partition]) -> Settings:
    """One group for each GPU type, and each model told to go to its type's."""
    config, models = cluster_of(settings), dict(settings.models)
    groups = []
    for gpu_type in dict.fromkeys(spec.hardware.gpu_type for spec in models.values() if spec.gpus):
        mine = {key: each for key, each in models.items() if each.gpus and each.hardware.gpu_type == gpu_type}
        group = _group(settings, mine, find_pool(next(iter(mine)), gpu_type, config.partition, partitions), gpu_type)
        groups.append(group)
        models |= {key: _bound(spec, group.name) for key, spec in mine.items()}
    cluster = config.model_copy(update={"groups": tuple(groups)})
    return settings.model_copy(update={"cluster": cluster, "models": models})


def _group(settings: Settings, models: Mapping[str, ModelSpec], pool: Pool, gpu_type: str | None) -> NodeGroup:
    """As many nodes as serve each of these models; of a node as much CPU and memory as of its GPUs."""
    for key, spec in models.items():
        if spec.tensor_parallel > pool.gpus:
            raise SettingsError(_too_parallel(key, spec, pool.gpus, pool.where))
    need = _need(settings, models, pool.gpus)
    gpus = need.least_gpus if need.least_nodes == 1 else pool.gpus
    return NodeGroup(
        name=re.sub(r"[^a-z0-9_-]+", "-", (gpu_type or "gpu").lower())[:31],
        nodes=need.least_nodes,
        gpus=gpus,
        gpu_type=pool.gpu_type,
        cpus=pool.share_of_cpus(gpus),
        memory=pool.share_of_memory(gpus),
        partition=pool.partition,
    )


def _bound(spec: ModelSpec, group: str) -> ModelSpec:
    labels = {**spec.hardware.labels, GROUP: group}
    return spec.model_copy(update={"hardware": spec.hardware.model_copy(update={"labels": labels})})


def _need(settings: Settings, models: Mapping[str, ModelSpec], gpus_per_node: int) -> Allocation:
    """What these models need of one kind of node, whichever types they name."""
    alike = {key: _untyped(spec) for key, spec in models.items()}
    made = plan(settings.model_copy(update={"models": alike}), site=Site(gpus_per_node), shapes=lambda _: None)
    return made.allocations[0]


def _untyped(spec: ModelSpec) -> ModelSpec:
    return spec.model_copy(update={"hardware": spec.hardware.model_copy(update={"gpu_type": None})})


def _problems(settings: Settings) -> list[str]:
    groups = cluster_of(settings).groups
    places = {key: _places(spec, groups) for key, spec in settings.models.items()}
    problems = [_no_place(key, settings.models[key], groups) for key, found in places.items() if not found]
    return problems or _too_few(settings, places)


def _places(spec: ModelSpec, groups: Sequence[NodeGroup]) -> frozenset[str]:
    """Names of the groups that can hold a worker of this model, and all workers that talk after every layer."""
    labelled = (group for group in groups if _has_labels(spec, group))
    if not spec.gpus:
        return frozenset(group.name for group in labelled)
    return frozenset(group.name for group in labelled if _has_type(spec, group) and spec.tensor_parallel <= group.gpus)


def _has_labels(spec: ModelSpec, group: NodeGroup) -> bool:
    return set(spec.hardware.labels.items()) <= _offered(group)


def _offered(group: NodeGroup) -> set[tuple[str, str]]:
    return {*group.labels.items(), (GROUP, group.name)}


def _has_type(spec: ModelSpec, group: NodeGroup) -> bool:
    return group.gpus > 0 and match(spec.hardware.gpu_type, group.gpu_type) > Match.NO


def _no_place(key: str, spec: ModelSpec, groups: Sequence[NodeGroup]) -> str:
    labelled = [group for group in groups if _has_labels(spec, group)]
    if not labelled:
        wanted = ", ".join(f"{name}={value}" for name, value in spec.hardware.labels.items())
        offered = sorted(f"{name}={value}" for group in groups for name, value in _offered(group))
        return f"models.{key}.hardware.labels: no group has {wanted}; cluster.groups offer {', '.join(offered)}"
    with_gpus = [group for group in labelled if group.gpus]
    names = ", ".join(group.name for group in labelled)
    if not with_gpus:
        return f"cluster.groups: {names} has no GPUs, but models.{key} needs {spec.gpus}; set gpus on a group"
    typed = [group for group in with_gpus if _has_type(spec, group)]
    if not typed:
        there = ", ".join(sorted({group.gpu_type or "" for group in with_gpus}))
        return f"models.{key}.hardware.gpu_type: no group has {spec.hardware.gpu_type}; cluster.groups have {there}"
    return _too_parallel(key, spec, max(group.gpus for group in typed), f"group {typed[0].name}")


def _too_parallel(key: str, spec: ModelSpec, most: int, where: str) -> str:
    return (
        f"models.{key}.tensor_parallel: {spec.tensor_parallel} is more than the {most} GPUs of a node of {where}; "
        f"at most {most}, with pipeline_parallel over several nodes"
    )


def _too_few(settings: Settings, places: Mapping[str, frozenset[str]]) -> list[str]:
    """Sets of groups that models cannot leave, and that are too small for them."""
    groups, problems = cluster_of(settings).groups, []
    with_gpus = {key: found for key, found in places.items() if settings.models[key].gpus}
    for names in dict.fromkeys(with_gpus.values()):
        models = {key: settings.models[key] for key, found in with_gpus.items() if found <= names}
        chosen = [group for group in groups if group.name in names]
        need = _need(settings, models, max(group.gpus for group in chosen))
        have, nodes = sum(group.nodes * group.gpus for group in chosen), sum(group.nodes for group in chosen)
        if need.least_gpus > have or need.least_nodes > nodes:
            problems.append(
                f"cluster.groups.{chosen[0].name}.nodes: {', '.join(models)} need {need.least_gpus} GPUs on "
                f"{need.least_nodes} nodes at least, {', '.join(group.name for group in chosen)} has {have} on {nodes}"
            )
    return problems
