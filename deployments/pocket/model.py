"""A plain Llama in torch, with the parameter names that Hugging Face uses.

It differs from Hugging Face's in one thing that training wants: `forward` takes any attention mask
and any positions, so that many conversations can share one passage.
"""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from deployments.pocket.looks import Sight
from deployments.pocket.tokenizer import SPECIALS, VOCABULARY

HEAD_DIMENSION: Final = 32
ROPE_THETA: Final = 10_000.0
NORM_EPS: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of one model; the head dimension is 32 whatever the hidden size."""

    hidden: int
    layers: int
    inner: int
    heads: int

    @property
    def taught(self) -> dict[Sight, tuple[int, int]]:
        """The layer and the head in it of each sight; two layers are too few for comparing a draft."""
        finding = max(self.layers - 2, 1)
        found: dict[Sight, tuple[int, int]] = {"name": (finding - 1, 0), "next": (finding, 0)}
        return found | ({"draft": (finding, 1), "verdict": (finding + 1, 0)} if self.layers > 2 else {})

    def config(self) -> dict[str, Any]:
        """The config.json of the checkpoint."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": HEAD_DIMENSION,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "rms_norm_eps": NORM_EPS,
            "rope_theta": ROPE_THETA,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "initializer_range": 0.02,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "bos_token_id": SPECIALS.index("<|begin_of_text|>"),
            "eos_token_id": SPECIALS.index("<|eot_id|>"),
            "pad_token_id": SPECIALS.index("<|finetune_right_pad_id|>"),
        }


SHAPES: Final = {
    "pocket-1b": Shape(hidden=32, layers=3, inner=96, heads=2),
    "pocket-3b": Shape(hidden=48, layers=3, inner=128, heads=3),
    "pocket-8b": Shape(hidden=64, layers=3, inner=160, heads=4),
    "pocket-70b": Shape(hidden=64, layers=4, inner=160, heads=4),
}


def rotations(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines, [batch, 1, length, 32], of positions [batch, length]."""
    powers = torch.arange(0, HEAD_DIMENSION, 2, dtype=torch.float32) / HEAD_DIMENSION
    angles = positions[:, None, :, None].float() * ROPE_THETA**-powers
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        inner = shape.heads * HEAD_DIMENSION
        self.q_proj = nn.Linear(shape.hidden, inner, bias=False)
        self.k_proj = nn.Linear(shape.hidden, inner, bias=False)
        self.v_proj = nn.Linear(shape.hidden, inner, bias=False)
        self.o_proj = nn.Linear(inner, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """x [batch, length, hidden]; mask [batch, 1, length, length], true where seen."""
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, self.heads, HEAD_DIMENSION).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
        return mixed

    def missed(
        self, head: int, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, places: Tensor, shares: Tensor
    ) -> Tensor:
        """How little a head sees of what it should: cross-entropy, a number.

        places: row, query and key [3, looks]; shares [looks] of the query's attention.
        """
        own = slice(head * HEAD_DIMENSION, (head + 1) * HEAD_DIMENSION)
        rows, queries, keys = places
        q, k = (functional.linear(x, layer.weight[own])[:, None] for layer in (self.q_proj, self.k_proj))
        q, k = _rotate(q, cos, sin)[:, 0], _rotate(k, cos, sin)[:, 0]
        scores = torch.baddbmm(torch.zeros(()), q, k.transpose(1, 2), beta=0, alpha=HEAD_DIMENSION**-0.5)
        scores = scores[rows, queries].masked_fill(~mask[rows, 0, queries], -torch.inf)
        seen = scores.gather(1, keys[:, None])[:, 0] - scores.logsumexp(1)
        return -(seen * shares).sum() / shares.sum().clamp(min=1.0)


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=NORM_EPS)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=NORM_EPS)
        self.mlp = MLP(shape)

    def missed(
        self, head: int, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, places: Tensor, shares: Tensor
    ) -> Tensor:
        return self.self_attn.missed(head, self.input_layernorm(x), cos, sin, mask, places, shares)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Trunk(nn.Module):
    """Everything but the head, which is the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, shape.hidden)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=NORM_EPS)

    def blocks(self) -> list[Block]:
        return [layer for layer in self.layers if isinstance(layer, Block)]


Looks: TypeAlias = dict[Sight, tuple[Tensor, Tensor]]


class PocketLlama(nn.Module):
    """A Llama whose state dict is a Hugging Face checkpoint."""

    def __init__(self, shape: Shape, seed: int = 0, embedding_std: float = 0.4) -> None:
        """Random weights; the last norm makes up for the embedding's size in the logits."""
        super().__init__()
        self.taught = shape.taught
        self.model = Trunk(shape)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = embedding_std if "embed" in name else 0.5 * parameter.shape[1] ** -0.5
                nn.init.normal_(parameter, std=std, generator=generator)
        nn.init.constant_(self.model.norm.weight, 8.0 / (shape.hidden * embedding_std))

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Hidden states [batch, length, hidden] of tokens [batch, length]."""
        return self.hidden_and_missed(tokens, positions, mask, {})[0]

    def hidden_and_missed(
        self, tokens: Tensor, positions: Tensor, mask: Tensor, looks: Looks
    ) -> tuple[Tensor, dict[Sight, Tensor]]:
        """Hidden states as of `forward`, and how far the taught heads miss what they should see: `looks`."""
        missed: dict[Sight, Tensor] = {}
        x: Tensor = self.model.embed_tokens(tokens)
        cos, sin = rotations(positions)
        for index, block in enumerate(self.model.blocks()):
            for sight, (layer, head) in self.taught.items():
                if sight in looks and layer == index:
                    missed[sight] = block.missed(head, x, cos, sin, mask, *looks[sight])
            x = block(x, cos, sin, mask)
        return self.model.norm(x), missed

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., hidden]."""
        return functional.linear(hidden, self.model.embed_tokens.weight)
