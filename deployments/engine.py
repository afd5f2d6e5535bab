"""ModelSpec -> vLLM's engine arguments and environment: plain data, made without Ray or vLLM."""

from __future__ import annotations

import json
from typing import Any

from deployments.config import Lora, ModelSpec
from deployments.progress import LOGGING_CONFIG, MODEL_VARIABLE

CPU_ENVIRONMENT = {
    # Threads that spin or bind starve the other processes of a small machine.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Otherwise the first sampled request compiles for up to 25 s.
    "TORCHDYNAMO_DISABLE": "1",
}
NOWHERE = ["media.invalid"]
"""Pictures come in a request: fetched for it, they would show what only the node can reach. A name that nobody has."""
ENVIRONMENT = {
    # n is a multiplier of one request's cost; vLLM's own limit is 16384.
    "VLLM_MAX_N_SEQUENCES": "128",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def engine_arguments(spec: ModelSpec) -> dict[str, Any]:
    """vLLM's engine and frontend arguments; the profile's `engine` has the last word."""
    arguments: dict[str, Any] = {
        "dtype": spec.dtype,
        "max_model_len": spec.context_tokens,
        "max_num_seqs": spec.max_sequences,
        "tensor_parallel_size": spec.tensor_parallel,
        "pipeline_parallel_size": spec.pipeline_parallel,
        "enforce_eager": spec.eager,
        "scheduling_policy": "priority",
        "allowed_media_domains": NOWHERE,
    }
    if spec.quantization:
        arguments["quantization"] = spec.quantization
    if spec.kv_cache:
        arguments["kv_cache_memory_bytes"] = int(spec.kv_cache)
    if spec.hardware.kind == "gpu":
        arguments["gpu_memory_utilization"] = spec.gpu_memory_utilization
    if spec.task == "embed":
        arguments |= {"runner": "pooling", "convert": "embed"}
    elif spec.tool_parser:
        arguments |= {"enable_auto_tool_choice": True, "tool_call_parser": spec.tool_parser}
    return arguments | _lora_arguments(spec) | spec.engine


def _lora_arguments(spec: ModelSpec) -> dict[str, Any]:
    if spec.lora is None:
        return {}
    return {
        "enable_lora": True,
        "max_loras": spec.lora.max_adapters if spec.hardware.kind == "gpu" else _cpu_slots(spec.lora),
        "max_lora_rank": spec.lora.max_rank,
        "lora_modules": [{"name": name, "path": path} for name, path in spec.lora.adapters.items()],
    }


def _cpu_slots(lora: Lora) -> int:
    """One slot more than adapters: vLLM's CPU kernels apply the last one to requests that name no adapter as soon as
    one beside them does (index -1 of vllm/lora/ops/torch_ops), so the last one stays empty.
    """
    return max(lora.max_adapters, len(lora.adapters)) + 1


def environment(spec: ModelSpec) -> dict[str, str]:
    """Environment of the replica and its engine."""
    base = CPU_ENVIRONMENT if spec.hardware.kind == "cpu" else {}
    progress = {MODEL_VARIABLE: spec.id, "VLLM_LOGGING_CONFIG_PATH": str(LOGGING_CONFIG)}
    return {**ENVIRONMENT, **progress, **base, **spec.env}


def server_arguments(spec: ModelSpec) -> list[str]:
    """The same engine as arguments of vLLM's own server (python -m vllm.entrypoints.openai.api_server)."""
    arguments: dict[str, Any] = {"model": spec.source, "served_model_name": spec.id, **engine_arguments(spec)}
    if spec.hardware.kind == "cpu":
        # As CorralEngine runs it; vLLM's server keeps it only with VLLM_ENABLE_V1_MULTIPROCESSING=0.
        arguments["distributed_executor_backend"] = "uni"
    flags: list[str] = []
    for name, value in arguments.items():
        flags += _flag(f"--{name.replace('_', '-')}", value)
    return flags


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [name] if value else []
    if isinstance(value, list):
        return [name, *(json.dumps(item) if isinstance(item, dict) else str(item) for item in value)]
    return [name, json.dumps(value) if isinstance(value, dict) else str(value)]
