"""Bulk items count for autoscaling; the rest is as in Serve's own policy."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from ray.serve.autoscaling_policy import _core_replica_queue_length_policy
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.config import ModelSpec
from deployments.replicas import deployment_options
from deployments.scaling_policy import BULK_ITEMS, POLICY, replicas_for


def context(replicas: int, requests: float, metrics: Any = None) -> AutoscalingContext:
    """What Serve's controller hands to a policy: a target of 10 requests."""
    given: Any = dict.fromkeys(
        ("deployment_id", "deployment_name", "app_name", "running_replicas", "total_queued_requests", "raw_metrics",
         "last_scale_up_time", "last_scale_down_time", "current_time")
    )  # fmt: skip
    return AutoscalingContext(
        **given,
        current_num_replicas=replicas,
        target_num_replicas=replicas,
        total_num_requests=requests,
        aggregated_metrics=metrics,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=9,
        policy_state={},
        config=AutoscalingConfig(target_ongoing_requests=10),
    )


@pytest.mark.parametrize(("replicas", "requests"), [(1, 0), (1, 25), (3, 7.5), (2, 20), (0, 0)])
def test_without_bulk_it_is_serves_own(replicas: int, requests: float) -> None:
    there = context(replicas, requests)
    assert replicas_for(there)[0] == pytest.approx(_core_replica_queue_length_policy(there)[0])


def test_items_of_all_replicas_count_as_requests() -> None:
    assert replicas_for(context(2, 8, {BULK_ITEMS: {"a": 30.0, "b": 22.0}}))[0] == 6


def test_serve_finds_it_by_its_name() -> None:
    module, _, name = POLICY.partition(":")
    assert getattr(importlib.import_module(module), name) is replicas_for
    spec = ModelSpec.model_validate(
        {"id": "m", "source": "pocket:pocket-1b", "hardware": {"kind": "cpu"}, "autoscaling": {"max_replicas": 3}}
    )
    assert deployment_options(spec)["autoscaling_config"]["policy"] == {"policy_function": POLICY}
