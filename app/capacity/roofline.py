"""A curve from data sheets: bytes over bandwidth or FLOP over FLOP/s, whichever takes longer.

That is a bound: no engine is quicker. What engines reach of it is assumed below, and a measured curve is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

from app.capacity.errors import CapacityError
from app.fit import DTYPE_BYTES, kv_per_token, quantization, weights_per_worker
from app.gpus import GPUS, Gpu
from app.shapes import Shape
from deployments.config import ModelSpec

BANDWIDTH_EFFICIENCY = 0.75
"""Of the data sheet's bandwidth, while weights and KV cache stream through. Copies reach 0.9; kernels begin and end."""
COMPUTE_EFFICIENCY = 0.5
"""Of the data sheet's dense FLOP/s, while prompts are read: attention and small matrices are below large ones' 0.7."""
TENSOR_EFFICIENCY = 0.9
"""Kept for each doubling of the GPUs that share a layer: two all-reduces a layer over NVLink."""
STEP_OVERHEAD_S = 0.002
"""Of a step beside its kernels: schedule, launch, sample, hand out."""
SEQUENCE_OVERHEAD_S = 10e-6
"""Of a step for each of its sequences: sampling, detokenising, one event of a stream."""
REQUEST_S = 0.005
"""Of a request: the address, the server, the tokeniser, the first event."""
FLOAT32_FLOPS = 1 / 32
"""Of the 16-bit FLOP/s, where a data sheet's FP32 is not known: less than any known one's (1/31 to 1/2)."""


@dataclass(frozen=True)
class RooflineCurve:
    """One replica. Bytes, FLOP and rates are a worker's; `stages` of them follow each other (pipeline parallel).

    weights:      bytes read in every step.
    kv_bytes:     read for each token in a cache.
    token_flop:   of each token through the layers; head_flop: of each that is given out; attention_flop: of each
                  position looked back on.
    bandwidth, flops: bytes/s and FLOP/s that are reached.
    """

    weights: float
    kv_bytes: float
    token_flop: float
    head_flop: float
    attention_flop: float
    bandwidth: float
    flops: float
    stages: int = 1
    request_s: float = REQUEST_S

    @property
    def max_running(self) -> int | None:
        return None

    def step_s(self, running: int, context: float, prompt: float = 0, attended: float = 0) -> float:
        """The stages work on a part of the batch each, so that a token waits for all of them in turn."""
        memory = (self.weights * self.stages + self.kv_bytes * context) / self.bandwidth
        flop = (running + prompt) * self.token_flop + running * self.head_flop
        compute = (flop + self.attention_flop * (context + attended)) / self.flops
        return max(memory, compute) + STEP_OVERHEAD_S + SEQUENCE_OVERHEAD_S * running

    def bound(self, running: float, context: float, prompt: float = 0) -> str:
        weights, cache = self.weights * self.stages / self.bandwidth, self.kv_bytes * context / self.bandwidth
        flop = (running + prompt) * self.token_flop + running * self.head_flop + self.attention_flop * context
        terms = {
            "memory bandwidth (weights)" if weights > cache else "memory bandwidth (KV cache)": weights + cache,
            "compute": flop / self.flops,
            "what a step costs beside its kernels": STEP_OVERHEAD_S + SEQUENCE_OVERHEAD_S * running,
        }
        return max(terms, key=lambda name: terms[name])


def roofline(spec: ModelSpec, shape: Shape, gpu: Gpu) -> RooflineCurve:
    """The curve of one replica. Raises CapacityError for a GPU whose speed is not known."""
    if gpu.gb_per_s is None or gpu.tflops is None:
        known = ", ".join(name for name, each in GPUS.items() if each.tflops)
        raise CapacityError(
            f"the speed of {gpu.name} is not known here: measure it with `corral bench` and give --curve FOLDER, "
            f"or plan with --gpu, one of {known}"
        )
    tensor, layers = spec.tensor_parallel, ceil(shape.layers / spec.pipeline_parallel)
    kept = TENSOR_EFFICIENCY ** log2(tensor)
    return RooflineCurve(
        weights=weights_per_worker(spec, shape) - _looked_up(spec, shape),
        kv_bytes=kv_per_token(spec, shape),
        token_flop=2 * layers * shape.layer_linear / tensor,
        head_flop=2 * shape.embedding / tensor,
        attention_flop=4 * layers * shape.heads * shape.head_dim / tensor,
        bandwidth=gpu.gb_per_s * 1e9 * BANDWIDTH_EFFICIENCY * kept,
        flops=_tflops(spec, shape, gpu) * 1e12 * COMPUTE_EFFICIENCY * kept,
        stages=spec.pipeline_parallel,
    )


def _looked_up(spec: ModelSpec, shape: Shape) -> float:
    """Bytes of the input embedding, where it is a matrix of its own: a step reads a row of it for each token."""
    if shape.tied or spec.pipeline_parallel > 1:
        return 0
    return shape.embedding / spec.tensor_parallel * DTYPE_BYTES[spec.dtype]


def _tflops(spec: ModelSpec, shape: Shape, gpu: Gpu) -> float:
    """What the matrices are computed in: FP8 where weights and GPU both are, 16 bit for smaller weights.

    float32 is computed outside the tensor cores: vLLM leaves TF32 off (VLLM_FLOAT32_MATMUL_PRECISION: highest).
    """
    if quantization(spec, shape) == "fp8" and gpu.fp8_tflops:
        return gpu.fp8_tflops
    sixteen = gpu.tflops or 0
    return (gpu.fp32_tflops or FLOAT32_FLOPS * sixteen) if spec.dtype == "float32" else sixteen
