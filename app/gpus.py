"""What `corral plan` knows of GPUs: memory as CUDA reports it (rounded down) and compute capability."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """One GPU type under Ray's accelerator name. `memory` is bytes; `smallest_of` names a family it stands for."""

    name: str
    memory: int
    capability: float
    smallest_of: str | None = None

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


def _gpu(name: str, gib: float, capability: float, smallest_of: str | None = None) -> Gpu:
    return Gpu(name, int(gib * GIB), capability, smallest_of)


# A name that covers several sizes is planned as the smallest of them: what fits there fits on all.
# Ray adds the label of a sized name (A100-80G, V100-32G) to no node by itself.
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("T4", 14.5, 7.5),
        _gpu("V100", 15.7, 7.0, smallest_of="V100 with 16 or 32 GB"),
        _gpu("V100-16G", 15.7, 7.0),
        _gpu("V100-32G", 31.7, 7.0),
        _gpu("A10G", 22.0, 8.6),
        _gpu("L4", 22.0, 8.9),
        _gpu("A30", 23.5, 8.0),
        _gpu("A100", 39.3, 8.0, smallest_of="A100 with 40 or 80 GB"),
        _gpu("A100-40G", 39.3, 8.0),
        _gpu("A40", 44.3, 8.6),
        _gpu("L40S", 44.3, 8.9),
        _gpu("A100-80G", 79.1, 8.0),
        _gpu("H100", 79.1, 9.0),
        _gpu("H20", 95.0, 9.0),
        _gpu("RTX-PRO-6000", 94.9, 12.0),
        _gpu("H200", 139.0, 9.0),
        _gpu("B200", 177.0, 10.0),
        _gpu("GB200", 183.0, 10.0),
        _gpu("B300", 267.0, 10.3),
        _gpu("GB300", 267.0, 10.3),
    )
}


def larger_than(gpu: Gpu) -> list[Gpu]:
    """Types with more memory that lose no capability, the smallest first."""
    better = [other for other in GPUS.values() if other.memory > gpu.memory and other.capability >= gpu.capability]
    return sorted(better, key=lambda other: (other.memory, other.capability))
