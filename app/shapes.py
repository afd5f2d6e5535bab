"""The shape of a Llama: what its parameters and its KV cache are counted from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COUNTED = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""`model_type`s built like Llama: grouped attention, gated MLP, two norms a layer."""


@dataclass(frozen=True)
class Shape:
    """Sizes as config.json has them; `positions` is the longest sequence the model was made for."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    tied: bool = False
    positions: int = 131_072
    quantization: str | None = None

    @property
    def layer_linear(self) -> int:
        """Parameters of one layer's matrices."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        return attention + 3 * self.hidden * self.inner

    @property
    def embedding(self) -> int:
        """Parameters of one embedding matrix (the output matrix is another, unless tied)."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        matrices = 1 if self.tied else 2
        return self.layers * (self.layer_linear + 2 * self.hidden) + self.hidden + matrices * self.embedding


LLAMA_1B = Shape(2048, 16, 32, 8, 64, 8192, 128_256, tied=True)
LLAMA_3B = Shape(3072, 28, 24, 8, 128, 8192, 128_256, tied=True)
LLAMA_8B = Shape(4096, 32, 32, 8, 128, 14_336, 128_256)
LLAMA_70B = Shape(8192, 80, 64, 8, 128, 28_672, 128_256)

# From the models' published config.json. A name matches with or without -Instruct, Meta-, -FP8 and the owner.
KNOWN: dict[str, Shape] = {
    "llama-3.2-1b": LLAMA_1B,
    "llama-3.2-3b": LLAMA_3B,
    "llama-3.1-8b": LLAMA_8B,
    "llama-3.1-70b": LLAMA_70B,
    "llama-3.3-70b": LLAMA_70B,
    "smollm2-135m": Shape(576, 30, 9, 3, 64, 1536, 49_152, tied=True, positions=8192),
    "smollm2-360m": Shape(960, 32, 15, 5, 64, 2560, 49_152, tied=True, positions=8192),
    "tinyllama-1.1b-chat-v1.0": Shape(2048, 22, 32, 4, 64, 5632, 32_000, positions=2048),
}


def shape_of(source: str) -> Shape | None:
    """The shape of a folder's config.json, of a known hub id, or of one in the local hub cache; else None."""
    path = Path(source)
    if path.is_absolute():
        return read_shape(path / "config.json")
    return known_shape(source) or _cached_shape(source)


def known_shape(source: str) -> Shape | None:
    """The shape of a hub id in KNOWN. A name that ends in -FP8 (or -FP8-dynamic) is quantised already."""
    name = source.rsplit("/", 1)[-1].lower().removeprefix("meta-").removesuffix("-dynamic")
    base = name.removesuffix("-fp8")
    shape = KNOWN.get(base.removesuffix("-instruct"))
    if shape and base != name:
        return Shape(**{**vars(shape), "quantization": "fp8"})
    return shape


def read_shape(config: Path) -> Shape | None:
    """The shape that a config.json tells, or None where it cannot be read or counted."""
    try:
        data = json.loads(config.read_text(encoding="utf-8"))
        return shape_from_config(data)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def shape_from_config(data: Mapping[str, Any]) -> Shape | None:
    """Read Hugging Face's keys. None for an architecture that is not counted here; KeyError if a key is missing."""
    if data.get("model_type") not in COUNTED:
        return None
    heads, hidden = int(data["num_attention_heads"]), int(data["hidden_size"])
    return Shape(
        hidden=hidden,
        layers=int(data["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(data.get("num_key_value_heads") or heads),
        head_dim=int(data.get("head_dim") or hidden // heads),
        inner=int(data["intermediate_size"]),
        vocab=int(data["vocab_size"]),
        tied=bool(data.get("tie_word_embeddings", False)),
        positions=int(data.get("max_position_embeddings", 2048)),
        quantization=_quantization(data.get("quantization_config")),
    )


def _quantization(config: Mapping[str, Any] | None) -> str | None:
    """vLLM's word for how a checkpoint is quantised; compressed-tensors is looked into for its bits."""
    if not config:
        return None
    method = str(config.get("quant_method", "unknown"))
    if method != "compressed-tensors":
        return method
    groups = list((config.get("config_groups") or {}).values())
    weights = (groups[0].get("weights") or {}) if groups else {}
    return {"8": "fp8", "4": "int4"}.get(str(weights.get("num_bits")), method)


def _cached_shape(source: str) -> Shape | None:
    """Look where huggingface_hub keeps downloads, without importing it."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    folder = hub / f"models--{source.replace('/', '--')}" / "snapshots"
    shapes = (read_shape(config) for config in sorted(folder.glob("*/config.json")))
    return next((shape for shape in shapes if shape), None)
