"""Checkpoint folders that transformers and vLLM load: bf16 safetensors and what goes with them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from deployments.pocket.model import PocketLlama, Shape
from deployments.pocket.tokenizer import SPECIALS

TOKENIZER_KEYS = ("bos_token", "eos_token", "pad_token", "model_max_length")


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _generation_config() -> dict[str, object]:
    stops = [SPECIALS.index("<|eot_id|>"), SPECIALS.index("<|end_of_text|>")]
    return {
        "bos_token_id": SPECIALS.index("<|begin_of_text|>"),
        "eos_token_id": stops,
        "pad_token_id": SPECIALS.index("<|finetune_right_pad_id|>"),
        "do_sample": False,
    }


def export(model: PocketLlama, shape: Shape, tokens: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a checkpoint folder; the weights are rounded to bf16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {n: w.detach().to(torch.bfloat16).contiguous() for n, w in model.state_dict().items()}
    partial = folder / "model.safetensors.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")
    _write(folder / "config.json", shape.config())
    _write(folder / "generation_config.json", _generation_config())
    tokens.save_pretrained(folder)
