"""Whether a model's replicas fit beside what runs: their workers' bundles, first fit, into what Ray says is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deployments.config import ModelSpec
from deployments.replicas import bundle

Free = list[dict[str, float]]
"""What is free on each node, in Ray's words."""


def taken(spec: ModelSpec, replicas: int, free: Sequence[Mapping[str, float]]) -> Free | None:
    """What is free once so many replicas are there as well; None if there is no room for them.

    Whether workers may share a node, and of which kind its GPUs are, is Ray's to say: what does not fit after all
    stays unplaced.
    """
    left = [dict(node) for node in free]
    need = bundle(spec)
    for _ in range(replicas * spec.tensor_parallel * spec.pipeline_parallel):
        node = next((each for each in left if _fits(need, each)), None)
        if node is None:
            return None
        for resource, amount in need.items():
            node[resource] -= amount
    return left


def _fits(need: Mapping[str, float], node: Mapping[str, float]) -> bool:
    return all(node.get(resource, 0.0) >= amount - 1e-6 for resource, amount in need.items())
