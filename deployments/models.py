"""ModelSpec -> LLMConfig -> one Serve application per Llama size."""

from __future__ import annotations

import os
from typing import Any

from ray import serve
from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR
from ray.llm._internal.serve.core.configs.accelerators import AcceleratorType
from ray.llm._internal.serve.core.server.builder import build_llm_deployment
from ray.serve.deployment import Application
from ray.serve.llm import LLMConfig

from deployments import warm_engine
from deployments.config import ModelSpec
from deployments.engine import engine_arguments, environment
from deployments.replicas import bounds, bundle, deployment_options, kept_running
from deployments.secret import KEEPER_VARIABLE
from deployments.server import CorralServer, LocalWeights
from deployments.tracing_config import TracesConfig

REMOTE = ("s3://", "gs://", "abfss://", "azure://")


def build_model(spec: ModelSpec, max_body: int, traces: TracesConfig | None = None) -> Application:
    """The Serve application of one model; deploy it under spec.app_name at spec.route_prefix."""
    application = build_llm_deployment(
        llm_config(spec),
        override_serve_options={"name": spec.id, "user_config": bounds(spec, max_body)},
        deployment_cls=serve.ingress()(CorralServer),
        bind_kwargs={"spec": spec, "max_body": max_body, "traces": traces},
    )
    return kept_running(application)


def llm_config(spec: ModelSpec) -> LLMConfig:
    """What ray.serve.llm reads. `spec.source` is a folder or a hub id by now."""
    remote = spec.source.startswith(REMOTE)
    config: dict[str, Any] = {
        "model_loading_config": {"model_id": spec.id, "model_source": spec.source},
        "engine_kwargs": engine_arguments(spec),
        "accelerator_config": {"kind": spec.hardware.kind},
        "accelerator_type": _known_type(spec),
        "placement_group_config": {"bundle_per_worker": _bundle(spec), "strategy": spec.hardware.strategy},
        "deployment_config": deployment_options(spec),
        "runtime_env": {**spec.runtime_env, "env_vars": {**environment(spec), **_hook(spec), **_keeper()}},
        "experimental_configs": {"stream_batching_interval_ms": 0},
        "log_engine_metrics": False,
    }
    if not remote:
        config["callback_config"] = {"callback_class": LocalWeights}
    if spec.lora and spec.lora.remote_path:
        config["lora_config"] = {
            "dynamic_lora_loading_path": spec.lora.remote_path,
            "max_num_adapters_per_replica": spec.lora.max_adapters,
        }
    return LLMConfig(**config)


def _hook(spec: ModelSpec) -> dict[str, str]:
    """What Ray runs first in a replica's process; it takes worker_process_setup_hook for whole jobs only, and passes
    it on in this variable. Only where it was tried: for an engine of one process on CPU.
    """
    alone = spec.hardware.kind == "cpu" and spec.tensor_parallel == spec.pipeline_parallel == 1
    return {WORKER_PROCESS_SETUP_HOOK_ENV_VAR: warm_engine.HOOK} if alone else {}


def _keeper() -> dict[str, str]:
    """Where replicas on every node tell of usage; who deploys is on the head, and knows."""
    url = os.environ.get(KEEPER_VARIABLE)
    return {KEEPER_VARIABLE: url} if url else {}


def _bundle(spec: ModelSpec) -> dict[str, float]:
    found = bundle(spec)
    if spec.hardware.gpu_type and _known_type(spec) is None:
        found[f"accelerator_type:{spec.hardware.gpu_type}"] = 0.001
    return found


def _known_type(spec: ModelSpec) -> str | None:
    """The GPU type, if ray.serve.llm takes it; any other is asked for by the resource that Ray labels nodes with."""
    kind = spec.hardware.gpu_type
    return kind if kind in {member.value for member in AcceleratorType} else None
