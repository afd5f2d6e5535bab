"""Whether a Llama fits the GPU, once or twice, by the arithmetic of `corral plan`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtests.gpu.llamas import Llama
from loadtests.gpu.options import Options, Sides
from loadtests.gpu.profile import ALONE_SHARE, cache_for_aim, cache_for_all, profile_of
from loadtests.gpu.serving import corral, gpu_id
from loadtests.servers import ServerError

GIB = 1 << 30
H200 = 139 * GIB
MOST = 0.95
"""Of the memory, for two engines: what is left is other processes' and what nobody counted."""
QUERY = ["nvidia-smi", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits"]
QUERY_S = 30
OF_TOTAL = 0.99
"""nvidia-smi tells a little more than CUDA gives."""


@dataclass(frozen=True)
class Gpu:
    """The GPU that the servers get; bytes."""

    name: str
    memory: int
    used: int = 0


@dataclass(frozen=True)
class Sizes:
    """One engine without its KV cache, in bytes, as `corral plan` has it."""

    weights: int
    overhead: int


@dataclass(frozen=True)
class Room:
    """How a model is measured, and the arithmetic in words. `sides` None: it fits not even once."""

    sides: Sides | None
    sentence: str


def this_gpu() -> Gpu | None:
    """None where nvidia-smi finds no GPU."""
    if shutil.which(QUERY[0]) is None:
        return None
    query = [*QUERY, f"--id={gpu_id()}"]
    asked = subprocess.run(query, capture_output=True, text=True, timeout=QUERY_S, check=False)
    name, *numbers = [each.strip() for each in asked.stdout.strip().rsplit(",", 2)]
    if asked.returncode or len(numbers) != 2 or not all(each.isdigit() for each in numbers):
        return None
    total, used = (int(each) << 20 for each in numbers)
    return Gpu(name, int(OF_TOTAL * total), used)


def sizes_of(options: Options) -> dict[str, Sizes]:
    """Of every model whose folder is there. Raises ServerError if `corral plan` does not tell them."""
    path = options.out / "plan.yaml"
    path.write_text(yaml.safe_dump(profile_of(options.llamas, options), sort_keys=False))
    told = _planned(path)
    return {each["id"]: Sizes(each["weights"], each["overhead"]) for each in told if each["weights"]}


def _planned(profile: Path) -> list[dict[str, Any]]:
    # it ends with a status of its own where a host is too small for all of them at once, which they never are
    printed = corral("plan", "--profile", str(profile), "--json", fails=True)
    try:
        models: list[dict[str, Any]] = json.loads(printed)["models"]
    except (ValueError, KeyError):
        raise ServerError(f"corral plan says nothing of {profile}; its reason stands above") from None
    return models


def rooms_of(options: Options, memory: int) -> dict[str, Room]:
    """How each model is measured on a GPU of so many bytes. Raises ServerError."""
    sizes = sizes_of(options)
    if options.dry:
        return {each.name: _dry(each, options) for each in options.llamas}
    return {each.name: room_of(each, options, sizes, memory) for each in options.llamas}


def _dry(llama: Llama, options: Options) -> Room:
    """As an H200 would have it."""
    sides = options.sides or (Sides.IN_TURN if llama.aim_users < 128 else Sides.TOGETHER)
    return Room(sides, f"shrunken, on a CPU, {sides}")


def room_of(llama: Llama, options: Options, sizes: Mapping[str, Sizes], memory: int) -> Room:
    """Side by side if two engines with a KV cache for all users fit, or if it is asked for; else one at a time."""
    size = sizes[llama.name]
    one, cache = size.weights + size.overhead, cache_for_all(llama, options)
    twice = f"2 x ({_gib(size.weights)} weights + {_gib(cache)} KV cache + {_gib(size.overhead)} overhead) = "
    twice += f"{_gib(2 * (one + cache))} of {_gib(memory)}"
    fits_twice = 2 * (one + cache) <= MOST * memory
    if options.sides is Sides.TOGETHER and not fits_twice:
        return Room(None, f"two engines do not fit: {twice}")
    if fits_twice and options.sides in (None, Sides.TOGETHER):
        return Room(Sides.TOGETHER, twice)
    left = int(ALONE_SHARE * memory) - one
    once = f"{_gib(size.weights)} weights + {_gib(size.overhead)} overhead leave {_gib(max(0, left))} of "
    once += f"{_gib(int(ALONE_SHARE * memory))} for the KV cache, {max(0, left) // llama.kv_bytes:,} tokens"
    if left < cache_for_aim(llama, options):
        return Room(None, f"it does not fit: {once}")
    return Room(options.sides or Sides.IN_TURN, once if fits_twice else f"{once}; two do not fit: {twice}")


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
