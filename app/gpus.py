"""What `corral plan` knows of GPUs: memory as CUDA reports it (rounded down), compute capability, speed."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """One GPU type under Ray's accelerator name. `memory` is bytes; `smallest_of` names a family it stands for.

    Speed as the vendor's data sheet has it, None where that is not sure: GB/s of the memory, TFLOP/s of dense 16-bit
    matrices, of FP32 outside the tensor cores, and of dense FP8 matrices (0: it computes none in FP8). `sxm`: that is
    the SXM module's; the PCIe card of the same name is slower.
    """

    name: str
    memory: int
    capability: float
    smallest_of: str | None = None
    gb_per_s: float | None = None
    tflops: float | None = None
    fp32_tflops: float | None = None
    fp8_tflops: float = 0
    sxm: bool = False

    @property
    def bfloat16(self) -> bool:
        """Ampere and later."""
        return self.capability >= 8.0

    @property
    def fp8_weights(self) -> bool:
        """vLLM's fp8 runs here, if only for the weights (Marlin kernels, vLLM's get_min_capability)."""
        return self.capability >= 7.5

    @property
    def fp8(self) -> bool:
        """FP8 arithmetic in hardware: Ada, Hopper, Blackwell."""
        return self.capability >= 8.9


def _gpu(
    name: str, gib: float, capability: float, gb_per_s: float | None = None, tflops: float | None = None,
    fp32_tflops: float | None = None, fp8_tflops: float = 0, *, smallest_of: str | None = None, sxm: bool = False,
) -> Gpu:  # fmt: skip
    return Gpu(name, int(gib * GIB), capability, smallest_of, gb_per_s, tflops, fp32_tflops, fp8_tflops, sxm)


# A name that covers several sizes is planned as the smallest of them: what fits there fits on all.
# Ray adds the label of a sized name (A100-80G, V100-32G) to no node by itself.
# Speeds are those of the SXM module where there is one. Data sheets tell FLOP/s of matrices with sparsity; here they
# are without. FP32 is told of eight B200 or B300 (600) and of two GB200 (160); GB300's is left out. The A10G's is its
# own data sheet's (the A10 has 31.2). The RTX PRO 6000's speeds differ by edition and are left out.
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("T4", 14.5, 7.5, 300, 65, 8.1),
        _gpu("V100", 15.7, 7.0, 900, 125, 15.7, smallest_of="V100 with 16 or 32 GB", sxm=True),
        _gpu("V100-16G", 15.7, 7.0, 900, 125, 15.7, sxm=True),
        _gpu("V100-32G", 31.7, 7.0, 900, 125, 15.7, sxm=True),
        _gpu("A10G", 22.0, 8.6, 600, 70, 35),
        _gpu("L4", 22.0, 8.9, 300, 121, 30.3, 242),
        _gpu("A30", 23.5, 8.0, 933, 165, 10.3),
        _gpu("A100", 39.3, 8.0, 1555, 312, 19.5, smallest_of="A100 with 40 or 80 GB", sxm=True),
        _gpu("A100-40G", 39.3, 8.0, 1555, 312, 19.5, sxm=True),
        _gpu("A40", 44.3, 8.6, 696, 149.7, 37.4),
        _gpu("L40S", 44.3, 8.9, 864, 362, 91.6, 733),
        _gpu("A100-80G", 79.1, 8.0, 2039, 312, 19.5, sxm=True),
        _gpu("H100", 79.1, 9.0, 3350, 989, 67, 1979, sxm=True),
        _gpu("H20", 95.0, 9.0, 4000, 148, 44, 296),
        _gpu("RTX-PRO-6000", 94.9, 12.0),
        _gpu("H200", 139.0, 9.0, 4800, 989, 67, 1979, sxm=True),
        _gpu("B200", 177.0, 10.0, 8000, 2250, 75, 4500),
        _gpu("GB200", 183.0, 10.0, 8000, 2500, 80, 5000),
        _gpu("B300", 267.0, 10.3, 8000, 2250, 75, 4500),
        _gpu("GB300", 267.0, 10.3, 8000, 2500, None, 5000),
    )
}


def larger_than(gpu: Gpu) -> list[Gpu]:
    """Types with more memory that lose no capability, the smallest first."""
    better = [other for other in GPUS.values() if other.memory > gpu.memory and other.capability >= gpu.capability]
    return sorted(better, key=lambda other: (other.memory, other.capability))
