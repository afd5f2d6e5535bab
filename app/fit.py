"""Whether one model fits its devices. Arithmetic only, no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from app.gpus import GIB, GPUS, Gpu
from app.shapes import Shape
from deployments.config import ModelSpec

GPU_OVERHEAD = 2 * GIB
"""Per GPU beside weights and KV cache. Assumed: CUDA context and NCCL 0.5 GiB, activations of 8192 batched tokens and
the sampler's logits up to 1 GiB (a 70B over four GPUs: 0.8), CUDA graphs 0.5 GiB. vLLM measures its own at start."""

CPU_OVERHEAD = 1_300_000_000
"""Per CPU worker beside weights and KV cache: the Serve replica (0.53 GB) and the engine (0.77 GB) with vLLM and torch
imported, as measured (proportional set size, vLLM 0.29)."""

DTYPE_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "auto": 2.0}
QUANTIZED_BYTES = {"fp8": 1.0, "fbgemm_fp8": 1.0, "modelopt": 1.0, "int8": 1.0, "experts_int8": 1.0}
QUANTIZED_BYTES |= dict.fromkeys(("awq", "awq_marlin", "gptq", "gptq_marlin", "bitsandbytes", "int4"), 0.53)
"""Bytes per parameter of the layers' matrices (4 bit: with scales and zeros of groups of 128); embeddings: dtype."""

Change = dict[str, Any]
"""Changed keys of a model, nested as in YAML."""


@dataclass(frozen=True)
class Site:
    """What is known of the machines. None: unknown, so not judged."""

    gpus_per_node: int = 4
    host_memory: int | None = None
    host_cpus: float | None = None


@dataclass(frozen=True)
class ModelPlan:
    """One model on its devices. Memory is bytes per worker (one GPU; on CPU one process); None is unknown."""

    id: str
    source: str
    kind: str
    gpu_type: str | None
    parameters: int | None
    precision: str
    tensor_parallel: int
    pipeline_parallel: int
    gpus: int
    cpus: float
    context_tokens: int
    length: int
    max_sequences: int
    min_replicas: int
    max_replicas: int
    overhead: int
    memory: int | None = None
    budget: int | None = None
    weights: int | None = None
    kv_per_token: int | None = None
    kv_cache: int | None = None
    tokens: int | None = None
    sequences: int | None = None
    fits: bool | None = None
    reason: str | None = None
    change: Change | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def workers(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def replica_memory(self) -> int:
        """Bytes of one whole replica, as far as known."""
        return self.workers * ((self.weights or 0) + (self.kv_cache or 0) + self.overhead)


def measure(spec: ModelSpec, shape: Shape | None, site: Site, length: int | None = None) -> ModelPlan:
    """Fill in every figure that is known. `length` is tokens per sequence, the whole context if None."""
    plan = _stated(spec, shape, length)
    gpu = GPUS.get(spec.hardware.gpu_type or "")
    if shape is None:
        return replace(plan, reason=_unknown_shape(spec))
    plan = _filled(plan, spec, shape, gpu, site)
    plan = replace(plan, notes=tuple(_notes(spec, shape, gpu, site, plan)))
    if reason := _layout_problem(spec, shape, gpu) or _memory_problem(spec, gpu, plan):
        return replace(plan, fits=False, reason=reason)
    if spec.hardware.kind == "gpu" and gpu is None:
        return replace(plan, reason=_unknown_gpu(spec))
    return replace(plan, fits=True)


def weights_per_worker(spec: ModelSpec, shape: Shape) -> int:
    """Bytes on the fullest worker: layers split over stages and GPUs, KV heads repeated where they are too few."""
    plain = DTYPE_BYTES[spec.dtype]
    per_matrix = QUANTIZED_BYTES.get(quantization(spec, shape) or "", plain)
    kv_heads = max(1, shape.kv_heads / spec.tensor_parallel)
    sharded = 2 * shape.hidden * shape.heads * shape.head_dim + 3 * shape.hidden * shape.inner
    matrices = sharded / spec.tensor_parallel + 2 * shape.hidden * kv_heads * shape.head_dim
    layer = matrices * per_matrix + 2 * shape.hidden * plain
    embeddings = 1 if shape.tied or spec.pipeline_parallel > 1 else 2
    outside = embeddings * shape.embedding / spec.tensor_parallel + shape.hidden
    return ceil(_stage_layers(spec, shape) * layer + outside * plain)


def kv_per_token(spec: ModelSpec, shape: Shape) -> int:
    """Bytes of keys and values that one token takes on one worker."""
    kv_heads = ceil(max(1, shape.kv_heads / spec.tensor_parallel))
    small = str(spec.engine.get("kv_cache_dtype", "auto")).startswith("fp8")
    return int(2 * _stage_layers(spec, shape) * kv_heads * shape.head_dim * (1 if small else DTYPE_BYTES[spec.dtype]))


def quantization(spec: ModelSpec, shape: Shape) -> str | None:
    """What the profile says, else what the checkpoint itself says."""
    return spec.quantization or shape.quantization


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.1f} MiB"


def _stage_layers(spec: ModelSpec, shape: Shape) -> int:
    return ceil(shape.layers / spec.pipeline_parallel)


def _stated(spec: ModelSpec, shape: Shape | None, length: int | None) -> ModelPlan:
    quantized = quantization(spec, shape) if shape else spec.quantization
    workers = spec.tensor_parallel * spec.pipeline_parallel
    return ModelPlan(
        id=spec.id,
        source=spec.source,
        kind=spec.hardware.kind,
        gpu_type=spec.hardware.gpu_type,
        parameters=shape.parameters if shape else None,
        precision=quantized or ("16-bit" if spec.dtype == "auto" else spec.dtype),
        tensor_parallel=spec.tensor_parallel,
        pipeline_parallel=spec.pipeline_parallel,
        gpus=spec.gpus,
        cpus=spec.hardware.cpus * workers,
        context_tokens=spec.context_tokens,
        length=length or spec.context_tokens,
        max_sequences=spec.max_sequences,
        min_replicas=max(spec.autoscaling.min_replicas, spec.autoscaling.initial_replicas or 0),
        max_replicas=spec.autoscaling.max_replicas,
        overhead=CPU_OVERHEAD if spec.hardware.kind == "cpu" else GPU_OVERHEAD,
        kv_cache=spec.kv_cache,
    )


def _filled(plan: ModelPlan, spec: ModelSpec, shape: Shape, gpu: Gpu | None, site: Site) -> ModelPlan:
    """Weights, KV cache, and what the KV cache holds."""
    cpu = spec.hardware.kind == "cpu"
    memory = site.host_memory if cpu else (gpu.memory if gpu else None)
    budget = None if memory is None else int(memory * _share(spec))
    weights, per_token = weights_per_worker(spec, shape), kv_per_token(spec, shape)
    cache: int | None = spec.kv_cache
    if cache is None and budget is not None and not cpu:
        cache = max(0, budget - weights - plan.overhead)
    plan = replace(plan, memory=memory, budget=budget, weights=weights, kv_per_token=per_token, kv_cache=cache)
    if cache is None:
        return plan
    block = _block(spec)
    blocks = cache // (per_token * block)
    sequences = blocks // ceil(plan.length / block) if plan.length <= plan.context_tokens else 0
    return replace(plan, tokens=blocks * block, sequences=sequences)


def _share(spec: ModelSpec) -> float:
    """The part of memory that may be used: vLLM ignores gpu_memory_utilization where the KV cache's size is given."""
    return 1.0 if spec.hardware.kind == "cpu" or spec.kv_cache else spec.gpu_memory_utilization


def _block(spec: ModelSpec) -> int:
    """Tokens of one block of vLLM's KV cache; a sequence takes whole blocks."""
    return 128 if spec.hardware.kind == "cpu" else 16


def _layout_problem(spec: ModelSpec, shape: Shape, gpu: Gpu | None) -> str | None:
    tensor, quantized = spec.tensor_parallel, quantization(spec, shape)
    if spec.context_tokens > shape.positions:
        return f"context_tokens {spec.context_tokens} is more than the {shape.positions} this model was made for"
    if shape.heads % tensor or (shape.kv_heads % tensor and tensor % shape.kv_heads):
        return (
            f"tensor_parallel {tensor} does not divide {shape.heads} attention heads and {shape.kv_heads} KV heads; "
            f"{_listed(valid_tensor(shape, 16))} would"
        )
    if spec.pipeline_parallel > shape.layers:
        return f"pipeline_parallel {spec.pipeline_parallel} is more than the model's {shape.layers} layers"
    if gpu and spec.dtype == "bfloat16" and not gpu.bfloat16:
        return f"{gpu.name} cannot compute bfloat16 (compute capability {gpu.capability}, 8.0 needed)"
    if gpu and quantized == "fp8" and not gpu.fp8_weights:
        return f"vLLM's fp8 does not run on {gpu.name} (compute capability {gpu.capability}, 7.5 needed)"
    return None


def _memory_problem(spec: ModelSpec, gpu: Gpu | None, plan: ModelPlan) -> str | None:
    if plan.weights is None or plan.kv_per_token is None:
        return None
    cpu = spec.hardware.kind == "cpu"
    if cpu and plan.kv_cache is None:
        return "kv_cache is not set: on CPU vLLM would claim most of the host's memory and fail"
    explicit = spec.kv_cache or 0
    taken = plan.weights + plan.overhead + explicit
    if plan.budget is not None and taken * (plan.workers if cpu else 1) > plan.budget:
        return f"{_sum(plan, explicit)} are more than {_limit(spec, gpu, plan)}"
    if plan.tokens is not None and plan.tokens < whole_blocks(spec):
        needed = plan.kv_per_token * whole_blocks(spec)
        return (
            f"the {gib(plan.kv_cache or 0)} left for the KV cache hold {plan.tokens} tokens; one sequence of "
            f"context_tokens {spec.context_tokens} needs {gib(needed)} ({plan.kv_per_token} bytes a token)"
        )
    return None


def _sum(plan: ModelPlan, explicit: int) -> str:
    cache = f", {gib(explicit)} KV cache" if explicit else ""
    where = "process" if plan.kind == "cpu" else "GPU"
    times = f" (x {plan.workers} processes)" if plan.kind == "cpu" and plan.workers > 1 else f" per {where}"
    count = f"{(plan.parameters or 0) / 1e9:.2f}B parameters, {plan.precision}"
    return f"{gib(plan.weights or 0)} weights ({count}){cache} and {gib(plan.overhead)} overhead{times}"


def _limit(spec: ModelSpec, gpu: Gpu | None, plan: ModelPlan) -> str:
    if gpu is None:
        return f"the host's {gib(plan.budget or 0)}"
    return f"{gib(plan.budget or 0)} ({_share(spec):g} of the {gib(gpu.memory)} of one {gpu.name})"


def whole_blocks(spec: ModelSpec) -> int:
    """context_tokens, rounded up to blocks."""
    return ceil(spec.context_tokens / _block(spec)) * _block(spec)


def _unknown_shape(spec: ModelSpec) -> str:
    if spec.source.startswith("/"):
        return f"the shape is unknown: {spec.source}/config.json is of no architecture that is counted here"
    return f"the shape of {spec.source} is unknown here: download it first (hf download {spec.source}) or give a folder"


def _unknown_gpu(spec: ModelSpec) -> str:
    what = f"GPU type {spec.hardware.gpu_type!r} is unknown" if spec.hardware.gpu_type else "no hardware.gpu_type"
    return f"{what}, so its memory is not known; known types: {', '.join(GPUS)}"


def _notes(spec: ModelSpec, shape: Shape, gpu: Gpu | None, site: Site, plan: ModelPlan) -> Iterator[str]:
    quantized = quantization(spec, shape)
    if gpu and gpu.smallest_of:
        yield f"{gpu.smallest_of}: planned as the smaller, {gib(gpu.memory)}"
    if gpu and quantized == "fp8" and not gpu.fp8:
        yield f"{gpu.name} has no FP8 arithmetic: memory is saved, speed is not"
    if quantized and quantized not in QUANTIZED_BYTES:
        yield f"quantization {quantized!r} is not known here: weights are counted unquantised"
    if plan.length > spec.context_tokens:
        yield f"sequences of {plan.length} tokens are longer than context_tokens {spec.context_tokens}: refused"
    elif plan.sequences is not None and plan.sequences < spec.max_sequences:
        yield f"memory holds {plan.sequences} full sequences, max_sequences is {spec.max_sequences}: the others wait"
    if spec.hardware.kind == "gpu" and spec.tensor_parallel > site.gpus_per_node:
        yield f"tensor_parallel {spec.tensor_parallel} spans nodes of {site.gpus_per_node} GPUs: slow over the network"


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))


def valid_tensor(shape: Shape, most: int) -> list[int]:
    both = range(1, most + 1)
    return [n for n in both if shape.heads % n == 0 and (shape.kv_heads % n == 0 or n % shape.kv_heads == 0)]
