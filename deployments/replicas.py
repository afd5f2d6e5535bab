"""What Serve is told of a model's replicas: how many, when there are more or fewer, their queue, health and end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deployments.config import ModelSpec, label_resource

if TYPE_CHECKING:
    from ray.serve.deployment import Application
from deployments.scaling_policy import POLICY

HEALTH_PERIOD_S = 2
"""A dead engine is noticed after three failed checks."""
WAKING_INTERVAL_S = 1.0
"""Serve hears this often of requests that wait; by its default a sleeping model is woken up to 10 s later."""
SCALING_INTERVAL_S = 2.0
"""And this often of those of a model that may have more replicas."""
LOOK_BACK_S = 10.0
"""Serve scales by the mean of so long. By its default, 30, a jump to twice the target shows after 15 s, and again as
long passes until it shows that more than one replica is missing; upscale_delay_s keeps short bursts out anyway.
"""
SLACK = 64
"""Serve lets in so many more than a replica takes, so that the replica refuses them: it knows for how long."""
LABEL_SHARE = 0.001
"""Of a node's label one worker takes this much; a node offers 1."""
DRAIN_S = 600
"""So long a replica that is scaled down may finish what it has; by Serve's default streams are cut off after 35 s."""


def deployment_options(spec: ModelSpec) -> dict[str, Any]:
    """Serve's options: the name that `serve status` shows, replicas, queue and health."""
    scaling = spec.autoscaling
    autoscaling: dict[str, Any] = {
        "min_replicas": scaling.min_replicas,
        "max_replicas": scaling.max_replicas,
        "target_ongoing_requests": scaling.target_ongoing_requests,
        "upscale_delay_s": scaling.upscale_delay_s,
        "downscale_delay_s": scaling.downscale_delay_s,
    }
    if scaling.max_replicas > scaling.min_replicas:
        autoscaling["metrics_interval_s"] = SCALING_INTERVAL_S if scaling.min_replicas else WAKING_INTERVAL_S
        autoscaling["look_back_period_s"] = LOOK_BACK_S
        autoscaling["policy"] = {"policy_function": POLICY}
    if scaling.initial_replicas is not None:
        autoscaling["initial_replicas"] = scaling.initial_replicas
    return {
        "name": spec.id,
        "autoscaling_config": autoscaling,
        "max_ongoing_requests": spec.max_ongoing_requests + spec.max_queued_requests + SLACK,
        "max_queued_requests": spec.max_queued_requests,
        "backpressure_config": {"status_code": 429, "retry_after_s": spec.retry_after_s},
        "health_check_period_s": HEALTH_PERIOD_S,
        "graceful_shutdown_timeout_s": DRAIN_S,
        "logging_config": {"enable_access_log": False},  # the edge has a line for each request
        "ray_actor_options": {"num_cpus": 0},
    }


def bundle(spec: ModelSpec) -> dict[str, float]:
    """What one worker of a replica takes of its node, but for a GPU's type."""
    gpu = {"GPU": 1.0} if spec.hardware.kind == "gpu" else {}
    labels = {label_resource(key, value): LABEL_SHARE for key, value in spec.hardware.labels.items()}
    return {"CPU": spec.hardware.cpus, **gpu, **labels, **spec.hardware.resources}


def bounds(spec: ModelSpec, max_body: int) -> dict[str, Any]:
    """What a replica is told anew while it runs: Serve hands it to its `reconfigure` whenever it changes."""
    return {
        "max_ongoing_requests": spec.max_ongoing_requests,
        "max_queued_requests": spec.max_queued_requests,
        "beside_quiet": spec.beside_quiet,
        "max_body": int(max_body),
    }


def kept_running(application: Application) -> Application:
    """The application such that Serve, when it is deployed once more, tells its replicas and does not end them.

    Serve ends what was deployed under another version, and takes another one each time where none is set; its public
    option for that is gone. A replica's constructor arguments that change alone are therefore not seen.
    """
    application._bound_deployment._version = "1"
    return application
