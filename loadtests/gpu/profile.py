"""One Llama as a profile of Corral's: random weights, and as much KV cache as leaves room for bare vLLM beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtests.gpu.llamas import Llama
from loadtests.gpu.options import TEMPLATE_ROOM, Options, Sides
from loadtests.gpu.tokenizer import write_tokenizer

TOGETHER_SHARE, ALONE_SHARE = 0.45, 0.94
"""Of the GPU's memory, for one engine of two and for one alone. Where the KV cache's size is given, vLLM only looks
whether so much is free when it starts."""
BATCHED_TOKENS = 8192
"""Of one step of the engine: vLLM's own default differs with how it is started."""
BLOCK = 16
CPU_CACHE = 128 << 20


@dataclass(frozen=True)
class Place:
    """Where the files of one Llama lie."""

    folder: Path

    @property
    def model(self) -> Path:
        """config.json and a tokenizer."""
        return self.folder / "model"

    @property
    def profile(self) -> Path:
        return self.folder / "profile.yaml"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def cache(self) -> Path:
        """What vLLM compiles, so that it is known whether a start had it."""
        return self.folder / "cache"

    @property
    def starts(self) -> Path:
        return self.folder / "starts.jsonl"

    @property
    def failure(self) -> Path:
        """Why the model was not measured, if it was not; a start that works removes it."""
        return self.folder / "failure.txt"


def place_of(llama: Llama, options: Options) -> Place:
    return Place(options.out / llama.name)


def write_places(options: Options) -> None:
    """A folder for each model, with what vLLM takes for the model in it where there are no real weights."""
    for llama in options.llamas:
        place = place_of(llama, options)
        place.folder.mkdir(parents=True, exist_ok=True)
        if llama.name not in options.weights:
            write_model(llama, place)


def write_model(llama: Llama, place: Place) -> None:
    """The folder that vLLM takes for a downloaded model. OSError where it cannot be written."""
    write_config(llama, place)
    write_tokenizer(place.model)


def write_config(llama: Llama, place: Place) -> None:
    """Its shape alone, which is all that `corral plan` reads."""
    place.model.mkdir(parents=True, exist_ok=True)
    (place.model / "config.json").write_text(json.dumps(llama.config(), indent=1))


def source_of(llama: Llama, options: Options) -> Path:
    """The folder of the weights that are there, else the one that `write_model` makes."""
    return options.weights.get(llama.name, place_of(llama, options).model)


def profile_of(llamas: Iterable[Llama], options: Options, sides: Sides = Sides.IN_TURN) -> dict[str, Any]:
    """A profile with these models; each of its models is alone on the GPU but for bare vLLM."""
    models = {}
    for llama in llamas:
        place = place_of(llama, options)
        machine = _on_cpu() if options.dry else _on_gpu(llama, options, sides, place)
        models[llama.name] = _model(llama, options) | machine | {"engine": _engine(llama, options)}
    return {"models": models}


def write_profile(llama: Llama, options: Options, sides: Sides) -> dict[str, Any]:
    """Writes the profile of one model and returns it."""
    profile, path = profile_of([llama], options, sides), place_of(llama, options).profile
    path.write_text(yaml.safe_dump(profile, sort_keys=False))
    return profile


def _model(llama: Llama, options: Options) -> dict[str, Any]:
    most = max(options.concurrencies)
    return {
        "source": str(source_of(llama, options)),
        "dtype": llama.dtype,
        "context_tokens": options.context_tokens,
        "max_sequences": most,
        "max_ongoing_requests": 2 * most,
        "max_queued_requests": 2 * most,
        "autoscaling": {"min_replicas": 1, "max_replicas": 1},
    }


def _engine(llama: Llama, options: Options) -> dict[str, Any]:
    weights = {} if llama.name in options.weights else {"load_format": "dummy"}
    return weights if options.dry else {**weights, "max_num_batched_tokens": BATCHED_TOKENS}


def _on_cpu() -> dict[str, Any]:
    return {"hardware": {"kind": "cpu", "cpus": 0.25}, "kv_cache": CPU_CACHE, "eager": True}


def _on_gpu(llama: Llama, options: Options, sides: Sides, place: Place) -> dict[str, Any]:
    together = sides is Sides.TOGETHER
    return {
        "hardware": {"kind": "gpu"},
        "gpu_memory_utilization": TOGETHER_SHARE if together else ALONE_SHARE,
        **({"kv_cache": cache_for_all(llama, options)} if together else {}),
        "env": {"VLLM_CACHE_ROOT": str(place.cache)},
    }


def cache_for_all(llama: Llama, options: Options) -> int:
    """Bytes of KV cache in which the most users' longest sequences lie at once."""
    return max(options.concurrencies) * _longest(options) * llama.kv_bytes


def cache_for_aim(llama: Llama, options: Options) -> int:
    """Bytes of KV cache without which a model cannot be measured as it is meant: its aim's users, the short prompts."""
    asked, answered = min(options.lengths)
    tokens = llama.aim_users * (asked + answered + TEMPLATE_ROOM)
    return max(tokens, options.context_tokens) * llama.kv_bytes


def _longest(options: Options) -> int:
    tokens = max(asked + answered for asked, answered in options.lengths) + TEMPLATE_ROOM
    return -(-tokens // BLOCK) * BLOCK
