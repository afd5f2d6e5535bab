"""The test herd: a profile over the pocket models, and the two folders that it needs beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from deployments.pocket import CHECKPOINTS

READY = ("pocket-1b", "pocket-8b", "narrow", "embedder")
"""Base models that run from the start."""
ADAPTER = "pocket-8b-tilted"
SERVED = ("pocket-1b", "pocket-8b", ADAPTER, "sleepy", "broken", "embedder", "narrow")
TRIBUNALS = ("tribunal", "tribunal/hollow", "tribunal/nested")
"""Virtual models; the second one's chair is a model that cannot start."""
EMBEDDER = "minilm"
"""The documents' embedding model, which is no model of the profile."""
MAX_BODY = 2 << 20
MAX_UPLOAD = 4 << 20
BUFSIZE = 64 << 10
CONTEXT_TOKENS = 2048


def write_herd(folder: Path, port: int, collector: str) -> Path:
    """Write the profile and its checkpoints into `folder`; returns the profile's path. collector: of all traces."""
    write_broken(folder / "broken")
    write_adapter(folder / "adapter")
    path = folder / "herd.yaml"
    profile = {**herd(folder, port), "traces": {"endpoint": collector, "sample": 1.0}}
    path.write_text(yaml.safe_dump(profile, sort_keys=False))
    return path


def herd(folder: Path, port: int) -> dict[str, Any]:
    """The profile. Queues, limits and delays are small so that tests meet them."""
    return {
        "extends": "pocket",
        "edge": {"port": port, "bufsize": BUFSIZE},
        "gateway": {"max_body": MAX_BODY},
        "rag": {"folder": str(folder / "rag"), "model": "pocket-8b", "max_upload": MAX_UPLOAD},
        "models": {
            "pocket-3b": None,
            "pocket-70b": None,
            "pocket-8b": {
                "lora": {"adapters": {ADAPTER: str(folder / "adapter")}, "max_adapters": 1, "max_rank": 8},
            },
            "sleepy": small("pocket:pocket-1b", autoscaling=SLEEPY),
            "broken": small(str(folder / "broken")),
            "embedder": small("pocket:pocket-1b", task="embed"),
            "narrow": small("pocket:pocket-1b", max_ongoing_requests=1, max_queued_requests=1),
        },
        "tribunals": {
            "default": sitting("pocket-1b", "narrow", "pocket-8b", chair="pocket-8b"),
            "hollow": sitting("pocket-1b", "pocket-8b", chair="broken"),
            "nested": sitting("pocket-1b", "tribunal", chair="pocket-8b"),
        },
    }


SLEEPY = {
    "min_replicas": 0,
    "initial_replicas": 0,
    "max_replicas": 1,
    "upscale_delay_s": 0,
    "downscale_delay_s": 5,
}


def small(source: str, **more: Any) -> dict[str, Any]:
    return {
        "source": source,
        "hardware": {"kind": "cpu", "cpus": 0.1},
        "dtype": "float32",
        "context_tokens": CONTEXT_TOKENS,
        "max_sequences": 8,
        "kv_cache": "64 MiB",
        "eager": True,
        **more,
    }


def sitting(*members: str, chair: str) -> dict[str, Any]:
    """A council in the embedded models' words; nothing less than all agreeing spares it the reviews."""
    return {
        "strategy": "council", "wording": "pocket", "members": list(members), "chair": chair, "temperature": 0,
        "max_tokens": 64, "review_max_tokens": 64, "stop": {"consensus": 1.0},
    }  # fmt: skip


def no_white_space() -> dict[str, int]:
    """OpenAI's logit_bias against white space alone, which JSON allows anywhere and models this small prefer.

    vLLM's grammar of a tool call takes it whatever the profile's structured_outputs_config says.
    """
    vocabulary = json.loads((CHECKPOINTS / "pocket-8b" / "tokenizer.json").read_text())["model"]["vocab"]
    return {str(number): -100 for token, number in vocabulary.items() if set(token) <= set("ĠĊĉč")}


def write_broken(folder: Path) -> None:
    """A checkpoint whose weights end in the middle."""
    shutil.copytree(CHECKPOINTS / "pocket-1b", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def write_adapter(folder: Path, rank: int = 4) -> None:
    """A LoRA adapter over pocket-8b with weights large enough that its answers differ from the base model's."""
    import torch
    from safetensors.torch import save_file

    shape = json.loads((CHECKPOINTS / "pocket-8b" / "config.json").read_text())
    hidden, heads, width = shape["hidden_size"], shape["num_attention_heads"], shape["head_dim"]
    random = torch.Generator().manual_seed(0)
    weights = {}
    for layer in range(shape["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(rank, hidden, generator=random)
        weights[f"{name}.lora_B.weight"] = torch.randn(heads * width, rank, generator=random)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "pocket-8b",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
