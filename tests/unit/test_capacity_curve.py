"""Curves: the roofline against figures worked by hand, the measured one between its points."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.capacity.curve import MeasuredCurve, rising
from app.capacity.errors import CapacityError
from app.capacity.roofline import (
    BANDWIDTH_EFFICIENCY,
    COMPUTE_EFFICIENCY,
    FLOAT32_FLOPS,
    SEQUENCE_OVERHEAD_S,
    STEP_OVERHEAD_S,
    TENSOR_EFFICIENCY,
    RooflineCurve,
    roofline,
)
from app.gpus import GPUS
from app.shapes import LLAMA_8B, LLAMA_70B, Shape
from deployments.config import ModelSpec


def spec(gpu: str = "H100", **keys: object) -> ModelSpec:
    data = {"id": "m", "source": "me/m", "dtype": "bfloat16", "hardware": {"gpu_type": gpu}, **keys}
    return ModelSpec.model_validate(data)


def curve(shape: Shape = LLAMA_8B, gpu: str = "H100", **keys: object) -> RooflineCurve:
    return roofline(spec(gpu, **keys), shape, GPUS[gpu])


# --- the roofline, by hand ---


def test_a_step_alone_reads_the_weights_once() -> None:
    """8B in 16 bit without the input embedding: (8.03 - 0.525)e9 * 2 bytes at 3.35 TB/s."""
    weights = (8_030_261_248 - 128_256 * 4096) * 2
    expected = weights / (3.35e12 * BANDWIDTH_EFFICIENCY) + STEP_OVERHEAD_S + SEQUENCE_OVERHEAD_S
    assert curve().step_s(1, 0) == pytest.approx(expected)
    assert curve().step_s(1, 0) == pytest.approx(0.00798, rel=0.01)


def test_caches_are_read_beside_the_weights() -> None:
    """64 sequences of 1,000 tokens, 128 KiB each token."""
    more = curve().step_s(64, 64_000) - curve().step_s(64, 0)
    assert more == pytest.approx(64_000 * 131_072 / (3.35e12 * BANDWIDTH_EFFICIENCY))
    assert curve().bound(1, 1000) == "memory bandwidth (weights)"
    assert curve().bound(256, 256_000) == "memory bandwidth (KV cache)"


def test_prompts_are_computed() -> None:
    """2 FLOP for each of the layers' 6.98e9 parameters and each token, and attention to what came before."""
    layers = 32 * (2 * 4096 * (32 + 8) * 128 + 3 * 4096 * 14_336)
    flop = 8192 * 2 * layers + 4 * 32 * 32 * 128 * 8192 * 4096
    expected = flop / (989e12 * COMPUTE_EFFICIENCY) + STEP_OVERHEAD_S
    assert curve().step_s(0, 0, 8192, 8192 * 4096) == pytest.approx(expected)
    assert curve().bound(1, 0, 8192) == "compute"


def test_fp8_halves_the_layers_and_doubles_the_rate() -> None:
    plain, small = curve(LLAMA_70B, tensor_parallel=4), curve(LLAMA_70B, tensor_parallel=4, quantization="fp8")
    assert small.weights == pytest.approx(plain.weights / 2, rel=0.02)
    assert small.flops == pytest.approx(plain.flops * 1979 / 989)
    ampere = curve(LLAMA_70B, "A100-80G", tensor_parallel=4, quantization="fp8")
    assert ampere.flops == pytest.approx(312e12 * COMPUTE_EFFICIENCY * TENSOR_EFFICIENCY**2)


def test_more_gpus_share_a_layer_and_lose_a_little() -> None:
    one, four = (
        curve(LLAMA_70B, "H200", quantization="fp8"),
        curve(LLAMA_70B, "H200", quantization="fp8", tensor_parallel=4),
    )
    work = one.step_s(1, 0) - STEP_OVERHEAD_S - SEQUENCE_OVERHEAD_S
    shared = four.step_s(1, 0) - STEP_OVERHEAD_S - SEQUENCE_OVERHEAD_S
    assert shared == pytest.approx(work / 4 / TENSOR_EFFICIENCY**2, rel=0.01)


def test_stages_follow_each_other() -> None:
    """A token waits for both stages, each with half of the layers: no quicker alone."""
    one, two = curve(LLAMA_70B, "B200"), curve(LLAMA_70B, "B200", pipeline_parallel=2)
    assert two.step_s(1, 0) == pytest.approx(one.step_s(1, 0), rel=0.05)
    assert two.kv_bytes == one.kv_bytes / 2


@pytest.mark.parametrize(("gpu", "tflops"), [("T4", 8.1), ("V100", 15.7), ("A100", 19.5), ("H100", 67), ("L40S", 91.6)])
def test_float32_is_computed_outside_the_tensor_cores(gpu: str, tflops: float) -> None:
    """vLLM leaves TF32 off, and the older ones have none."""
    assert curve(gpu=gpu, dtype="float32").flops == pytest.approx(tflops * 1e12 * COMPUTE_EFFICIENCY)


def test_float32_is_assumed_slow_where_no_data_sheet_tells_it() -> None:
    assert GPUS["GB300"].fp32_tflops is None
    assert curve(gpu="GB300", dtype="float32").flops == curve(gpu="GB300", dtype="bfloat16").flops * FLOAT32_FLOPS
    known = [each.fp32_tflops / each.tflops for each in GPUS.values() if each.fp32_tflops and each.tflops]
    assert min(known) > FLOAT32_FLOPS
    assert max(known) <= 0.5


def test_a_gpu_of_unknown_speed_is_named() -> None:
    with pytest.raises(CapacityError, match=r"RTX-PRO-6000 is not known here.*--curve.*H100"):
        curve(gpu="RTX-PRO-6000")


def test_data_sheets() -> None:
    """As NVIDIA publishes them, without sparsity."""
    assert (GPUS["H100"].gb_per_s, GPUS["H100"].tflops, GPUS["H100"].fp8_tflops) == (3350, 989, 1979)
    assert (GPUS["H200"].gb_per_s, GPUS["A100"].gb_per_s, GPUS["A100-80G"].gb_per_s) == (4800, 1555, 2039)
    assert all(gpu.fp8_tflops == 0 for gpu in GPUS.values() if not gpu.fp8)
    assert all(gpu.fp8_tflops > 0 for gpu in GPUS.values() if gpu.fp8 and gpu.tflops)


# --- the measured curve ---


def test_between_measured_points_it_goes_straight() -> None:
    measured = MeasuredCurve((1, 4, 16), (0.010, 0.016, 0.040), prompt_s=0.001, request_s=0.002)
    assert [measured.step_s(n, 0) for n in (1, 4, 16)] == pytest.approx([0.010, 0.016, 0.040])
    assert measured.step_s(2, 0) == pytest.approx(0.012)
    assert measured.step_s(10, 0) == pytest.approx(0.028)
    assert measured.step_s(4, 0, prompt=100) == pytest.approx(0.116)
    assert measured.step_s(0, 0, prompt=100) == pytest.approx(0.100)


def test_below_the_first_point_the_first_counts_and_beyond_the_last_nothing_is_known() -> None:
    measured = MeasuredCurve((4, 8), (0.016, 0.020), prompt_s=0, request_s=0)
    assert measured.step_s(1, 0) == 0.016
    assert measured.max_running == 8
    with pytest.raises(IndexError):
        measured.step_s(9, 0)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=9))
def test_measured_steps_never_fall(values: list[float]) -> None:
    risen = rising(values)
    assert len(risen) == len(values)
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(risen))
    assert sum(risen) == pytest.approx(sum(values))
    if values == sorted(values):
        assert risen == pytest.approx(values)
