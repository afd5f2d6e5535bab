"""One model of a profile as the simulation needs it: its engine's bounds, its curve, its GPUs, its cold start."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from app.capacity.curve import Curve
from app.capacity.errors import CapacityError
from app.capacity.replica import Bounds, Engine
from app.capacity.roofline import RooflineCurve, roofline
from app.fit import ModelPlan, Site
from app.gpus import GIB, GPUS
from app.plan import Plan, plan_model
from app.shapes import Shape
from deployments.config import ModelSpec

START_S = 45.0
"""Of a cold start on a GPU beside its weights: Python and vLLM, the engine, its CUDA graphs. Assumed."""
CPU_START_S = 15.0
"""The same on a CPU, where nothing is compiled, as measured with the pocket models."""
LOAD_BYTES_S = 1e9
"""Bytes of weights that a replica reads per second, from a file system that others read from too. Assumed."""


@dataclass(frozen=True)
class Subject:
    """A model that is planned. `gpus` are a replica's, 0 on a CPU; `notes` is what a reader should know of it."""

    spec: ModelSpec
    engine: Engine
    cold_start_s: float
    notes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def gpus(self) -> int:
        return self.spec.gpus

    @property
    def device(self) -> str:
        """The kind of GPU, or CPU."""
        return self.spec.hardware.gpu_type or "any GPU" if self.gpus else "CPU"


def fitting(spec: ModelSpec, shape: Shape | None, site: Site) -> ModelPlan:
    """The model on its devices. Raises PlanError, with the nearest change, where it does not fit on them."""
    plan = plan_model(spec, shape, site)
    Plan((plan,), (), site).require_fit()
    return plan


def bounds_of(spec: ModelSpec, kv_tokens: int | None) -> Bounds:
    """What one replica takes."""
    return Bounds(spec.max_sequences, kv_tokens, _step_tokens(spec), spec.max_ongoing_requests)


def roofline_of(spec: ModelSpec, shape: Shape | None, plan: ModelPlan) -> RooflineCurve:
    """The curve of one replica by data sheets. Raises CapacityError where there are none."""
    gpu = GPUS.get(spec.hardware.gpu_type or "")
    if not spec.gpus:
        raise CapacityError(
            f"{spec.id} runs on a CPU, which has no data sheet here: measure it with `corral bench` and give "
            f"--curve FOLDER, or plan it on a GPU with --gpu, for example --gpu H100"
        )
    if shape is None or gpu is None:
        raise CapacityError(f"{spec.id}: {plan.reason}; or measure it with `corral bench` and give --curve FOLDER")
    return roofline(spec, shape, gpu)


def subject(spec: ModelSpec, plan: ModelPlan, curve: Curve, cold_start_s: float | None = None) -> Subject:
    """A fitting model on its curve. cold_start_s: None, to have it estimated."""
    bounds, notes, most = bounds_of(spec, plan.tokens), [], curve.max_running
    if most is not None and most < bounds.max_running:
        bounds = replace(bounds, max_running=most)
        notes.append(f"{spec.id}: no replica runs more than {most} sequences at once, for more were not measured")
    seconds = _cold_start_s(plan) if cold_start_s is None else cold_start_s
    return Subject(spec, Engine(curve, bounds), seconds, tuple(notes))


def on_gpu(spec: ModelSpec, gpu_type: str | None) -> ModelSpec:
    """The model on another type of GPU. Raises CapacityError for one that is not known."""
    if gpu_type is None:
        return spec
    if gpu_type not in GPUS:
        upper = {name.upper(): name for name in GPUS}
        near = difflib.get_close_matches(gpu_type.upper(), upper, n=1)
        hint = f" (did you mean {upper[near[0]]}?)" if near else ""
        raise CapacityError(f"--gpu {gpu_type!r} is not known here{hint}; there are {', '.join(GPUS)}")
    hardware = spec.hardware.model_copy(update={"kind": "gpu", "gpu_type": gpu_type})
    return spec.model_copy(update={"hardware": hardware})


def _step_tokens(spec: ModelSpec) -> int:
    """vLLM's max_num_batched_tokens, and the defaults of its server by a GPU's memory."""
    gpu = GPUS.get(spec.hardware.gpu_type or "")
    if said := spec.engine.get("max_num_batched_tokens"):
        return int(said)
    if gpu is None or gpu.memory < 70 * GIB or gpu.name.startswith("A100"):
        return 2048
    return 8192 if gpu.memory < 160 * GIB else 16_384


def _cold_start_s(plan: ModelPlan) -> float:
    begin = CPU_START_S if plan.kind == "cpu" else START_S
    return begin + (plan.weights or 0) * plan.workers / LOAD_BYTES_S
