"""The smallest change with which a model fits: fewest keys first (a GPU type counts 3.5), then the order of _MOVES.

That order is what costs a person least: what hardly shows, then more GPUs of the same type, then other GPUs, at last a
context cut to less than half. Every proposal has been measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from math import ceil
from typing import Any

from pydantic import ByteSize

from app.fit import Change, Site, kv_per_token, measure, quantization, valid_tensor, whole_blocks
from app.gpus import GPUS, Gpu, larger_than
from app.shapes import Shape
from deployments.config import ModelSpec

SHORTEST_CONTEXT = 1024
"""No shorter context is proposed: a chat would not fit."""


def nearest_change(spec: ModelSpec, shape: Shape, site: Site) -> Change | None:
    """The smallest change with which the model fits, or None if three keys are not enough."""
    for moves in sorted(_combinations(), key=_cost):
        for changed in _reachable(spec, shape, site, moves):
            if measure(changed, shape, site).fits:
                return difference(spec, changed)
    return None


def _combinations() -> Iterator[tuple[Move, ...]]:
    for keys in (1, 2, 3):
        yield from combinations(_MOVES, keys)


def _cost(moves: tuple[Move, ...]) -> float:
    """A cluster has the GPUs it has: any other three changes come before another type."""
    return len(moves) + 2.5 * (_take_larger_gpu in moves)


def apply_change(spec: ModelSpec, change: Change) -> ModelSpec:
    """The model with the changed keys, validated."""
    data = spec.model_dump()
    hardware = {**data["hardware"], **change.get("hardware", {})}
    autoscaling = {**data["autoscaling"], **change.get("autoscaling", {})}
    return ModelSpec.model_validate({**data, **change, "hardware": hardware, "autoscaling": autoscaling})


def difference(before: ModelSpec, after: ModelSpec) -> Change:
    """What `after` says otherwise, as YAML would."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    change = {key: value for key, value in new.items() if value != old[key]}
    if "hardware" in change:
        change["hardware"] = {k: v for k, v in new["hardware"].items() if v != old["hardware"][k]}
    return change


Move = Callable[[ModelSpec, Shape, Site], Iterator[ModelSpec]]


def _reachable(spec: ModelSpec, shape: Shape, site: Site, moves: tuple[Move, ...]) -> Iterator[ModelSpec]:
    """Every model that these moves, one after another, lead to."""
    if not moves:
        yield spec
        return
    for rest in _reachable(spec, shape, site, moves[:-1]):
        yield from moves[-1](rest, shape, site)


def _gpu(spec: ModelSpec) -> Gpu | None:
    return GPUS.get(spec.hardware.gpu_type or "")


def _set(spec: ModelSpec, **changes: Any) -> ModelSpec:
    return spec.model_copy(update=changes)


def _halve_precision(spec: ModelSpec, shape: Shape, site: Site) -> Iterator[ModelSpec]:
    gpu = _gpu(spec)
    if spec.dtype == "float32" or (gpu and spec.dtype == "bfloat16" and not gpu.bfloat16):
        yield _set(spec, dtype="float16" if gpu and not gpu.bfloat16 else "bfloat16")


def _shorten(spec: ModelSpec, shape: Shape, site: Site, shortest: int) -> Iterator[ModelSpec]:
    """The longest context that fits, in steps of 256 tokens."""
    possible = min(measure(_set(spec, context_tokens=16), shape, site).tokens or 0, shape.positions)
    tokens = possible // 256 * 256
    if max(shortest, SHORTEST_CONTEXT) <= tokens < spec.context_tokens:
        yield _set(spec, context_tokens=tokens)


def _shorten_a_little(spec: ModelSpec, shape: Shape, site: Site) -> Iterator[ModelSpec]:
    yield from _shorten(spec, shape, site, ceil(spec.context_tokens / 2))


def _shorten_much(spec: ModelSpec, shape: Shape, site: Site) -> Iterator[ModelSpec]:
    yield from _shorten(spec, shape, site, SHORTEST_CONTEXT)


def _resize_cache(spec: ModelSpec, shape: Shape, site: Site) -> Iterator[ModelSpec]:
    """On GPUs the rest of memory, on CPU what one whole context needs."""
    if spec.hardware.kind == "gpu":
        yield from [_set(spec, kv_cache=None)] if spec.kv_cache else []
        return
    mib = 1 << 20
    needed = ceil(kv_per_token(spec, shape) * whole_blocks(spec) / mib) * mib
    if needed != spec.kv_cache:
        yield _set(spec, kv_cache=ByteSize(needed))


def _quantize(spec: ModelSpec, shape: Shape, site: Site) -> Iterator[ModelSpec]:
    gpu = _gpu(spec)
    if spec.quantization == "fp8" and gpu and not gpu.fp8_weights and not shape.quantization:
        yield _set(spec, quantization=None)
    if gpu and gpu.fp8 and quantization(spec, shape) is None:
        yield _set(spec, quantization="fp8")


def _split_layers(spec: ModelSpec, shape: Shape, site: Site) -> Iterator[ModelSpec]:
    """Another tensor_parallel within a node: more if the present one is valid, else whichever is valid and nearest."""
    valid = valid_tensor(shape, site.gpus_per_node)
    if spec.tensor_parallel in valid_tensor(shape, spec.tensor_parallel):
        valid = [size for size in valid if size > spec.tensor_parallel]
    for size in sorted(valid, key=lambda size: abs(size - spec.tensor_parallel)):
        yield _set(spec, tensor_parallel=size)


def _add_stages(spec: ModelSpec, shape: Shape, site: Site) -> Iterator[ModelSpec]:
    """More stages, but only of whole nodes: within a node tensor parallelism is quicker."""
    if spec.pipeline_parallel > shape.layers:
        yield _set(spec, pipeline_parallel=shape.layers)
    if spec.tensor_parallel < max(valid_tensor(shape, site.gpus_per_node)):
        return
    for stages in (2, 3, 4, 8):
        if spec.pipeline_parallel < stages <= shape.layers:
            yield _set(spec, pipeline_parallel=stages)


def _take_larger_gpu(spec: ModelSpec, shape: Shape, site: Site) -> Iterator[ModelSpec]:
    gpu = _gpu(spec)
    for other in larger_than(gpu) if gpu else []:
        yield _set(spec, hardware=spec.hardware.model_copy(update={"gpu_type": other.name}))


_MOVES: tuple[Move, ...] = (
    _halve_precision,
    _resize_cache,
    _shorten_a_little,
    _quantize,
    _split_layers,
    _add_stages,
    _take_larger_gpu,
    _shorten_much,
)
