"""Bundles as tensors: the passage once, its conversations beside each other, padding hardly any."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from deployments.pocket.handbook import Split
from deployments.pocket.tasks import Bundle, Mix, Turn, draw_bundle

TRUNK = 0
PADDING = -1


@dataclass(frozen=True, slots=True)
class Packed:
    """One bundle. All lists have one entry per token."""

    tokens: list[int]
    positions: list[int]
    segments: list[int]
    """0 for the trunk, which every branch sees; 1, 2, ... for the branches."""
    weights: list[float]
    """Of the loss on predicting this token."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded bundles, each tensor [batch, length]."""

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    weights: Tensor

    def mask(self) -> Tensor:
        """What each token sees [batch, 1, length, length]: the past of its branch and its trunk."""
        length = self.tokens.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        own = self.segments[:, :, None] == self.segments[:, None, :]
        return (seen & (own | (self.segments[:, None, :] == TRUNK)))[:, None]


def header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def opening(bundle: Bundle) -> str:
    """Everything before the first turn's own words, in Llama 3's chat format."""
    system = f"{header('system')}{bundle.system}<|eot_id|>" if bundle.system else ""
    return f"<|begin_of_text|>{system}{header('user')}{bundle.head}"


class Packer:
    """Turns bundles into tokens; `read_share` of the trunks get a small loss on their own text."""

    def __init__(self, tokens: PreTrainedTokenizerFast, read_weight: float = 0.05) -> None:
        self._tokens = tokens
        self._read_weight = read_weight
        self.encode = lru_cache(50_000)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokens.encode(text, add_special_tokens=False))

    def _branch(self, turns: tuple[Turn, ...]) -> tuple[list[int], list[float]]:
        """Tokens and loss weights of the turns of one branch."""
        ids: list[int] = []
        weights: list[float] = []
        for index, turn in enumerate(turns):
            start = "" if index == 0 else header("user")
            asked = self.encode(f"{start}{turn.prompt}<|eot_id|>{header('assistant')}")
            told = self.encode(f"{turn.reference}<|eot_id|>")
            ids += [*asked, *told]
            weights += [0.0] * len(asked) + [1.0] * len(told)
        return ids, weights

    def pack(self, bundle: Bundle, read: bool) -> Packed:
        """The trunk and then every branch, whose positions all go on from the trunk's end."""
        start = self._encode(opening(bundle))
        shared = bool(bundle.head)
        trunk = list(start) if shared else []
        segments = [TRUNK] * len(trunk)
        positions = list(range(len(trunk)))
        weights = [self._read_weight if read else 0.0] * len(trunk)
        tokens = list(trunk)
        for number, turns in enumerate(bundle.branches, start=1):
            ids, losses = self._branch(turns)
            lead = [] if shared else list(start)
            tokens += lead + ids
            weights += [0.0] * len(lead) + losses
            segments += [number] * (len(lead) + len(ids))
            positions += range(len(trunk), len(trunk) + len(lead) + len(ids))
        return Packed(tokens, positions, segments, weights)


def collate(packed: list[Packed]) -> Batch:
    """Pad bundles to the longest."""
    length = max(len(one.tokens) for one in packed)

    def padded(rows: Sequence[Sequence[float]], fill: float, dtype: torch.dtype) -> Tensor:
        out = torch.full((len(rows), length), fill, dtype=dtype)
        for row, values in enumerate(rows):
            out[row, : len(values)] = torch.tensor(values, dtype=dtype)
        return out

    return Batch(
        padded([p.tokens for p in packed], 0, torch.long),
        padded([p.positions for p in packed], 0, torch.long),
        padded([p.segments for p in packed], PADDING, torch.long),
        padded([p.weights for p in packed], 0.0, torch.float32),
    )


def pool_of_batches(
    packer: Packer, mix: Mix, rng: Random, count: int, budget: int, split: Split = "train"
) -> Iterator[Batch]:
    """`count` batches of about `budget` tokens each, of bundles of like length, in random order."""
    packed: list[Packed] = []
    total = 0
    while total < count * budget:
        one = packer.pack(draw_bundle(rng, mix, split), read=rng.random() < 0.25)
        packed.append(one)
        total += len(one.tokens)
    packed.sort(key=lambda one: len(one.tokens))
    share = total / count
    groups: list[list[Packed]] = [[] for _ in range(count)]
    done = 0
    for one in packed:
        groups[min(int(done / share), count - 1)].append(one)
        done += len(one.tokens)
    groups = [group for group in groups if group]
    rng.shuffle(groups)
    yield from map(collate, groups)
