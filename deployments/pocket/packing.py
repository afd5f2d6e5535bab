"""Bundles as tensors: the passage once, its conversations beside each other, padding hardly any."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from deployments.pocket.handbook import Fact, Split
from deployments.pocket.looks import SIGHTS, Look, Reply, Sight, Span, all_see, reply_looks, told
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
    looks: list[Look]


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded bundles, each tensor [batch, length]."""

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    weights: Tensor
    looks: dict[Sight, tuple[Tensor, Tensor]]
    """Row, query and key [3, looks], and the share of each [looks]."""

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
    """Turns bundles into tokens; `read_weight` is the loss weight of a trunk's own text, where it is to be read."""

    def __init__(self, tokens: PreTrainedTokenizerFast, read_weight: float = 0.05) -> None:
        self._tokens = tokens
        self._read_weight = read_weight
        self.encode = lru_cache(50_000)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokens.encode(text, add_special_tokens=False))

    def _trunk(self, bundle: Bundle) -> tuple[list[int], list[Look], dict[Fact, list[int]]]:
        """Tokens of the passage and what is before it, its looks, and where each value stands."""
        text = opening(bundle)
        encoding = self._tokens(text, add_special_tokens=False, return_offsets_mapping=True)
        if bundle.passage is None:
            return encoding["input_ids"], [], {}
        start = text.index(bundle.passage.text)

        def tokens_of(span: Span) -> list[int]:
            """Tokens that begin inside of the span or with the space before it."""
            first, last = start + span[0] - 1, start + span[1]
            return [i for i, (at, _) in enumerate(encoding["offset_mapping"]) if first <= at < last]

        looks: list[Look] = []
        values: dict[Fact, list[int]] = {}
        for one in told(bundle.passage):
            looks += all_see("name", tokens_of(one.rest), tokens_of(one.name))
            values |= {fact: tokens_of(span) for fact, span in one.values}
        return encoding["input_ids"], looks, values

    def _branch(
        self, turns: tuple[Turn, ...], start: int, values: dict[Fact, list[int]]
    ) -> tuple[list[int], list[float], list[Look]]:
        """Tokens, loss weights and looks of the turns of one branch, whose first token is number `start`."""
        ids: list[int] = []
        weights: list[float] = []
        looks: list[Look] = []
        for index, turn in enumerate(turns):
            lead = "" if index == 0 else header("user")
            asked = self.encode(f"{lead}{turn.prompt}<|eot_id|>{header('assistant')}")
            said = self.encode(f"{turn.reference}<|eot_id|>")
            if values:
                at = start + len(ids)
                looks += reply_looks(Reply(turn, at, lead, at + len(asked)), values, self.encode)
            ids += [*asked, *said]
            weights += [0.0] * len(asked) + [1.0] * len(said)
        return ids, weights, looks

    def pack(self, bundle: Bundle, read: bool) -> Packed:
        """The trunk and then every branch, whose positions all go on from the trunk's end."""
        start, looks, values = self._trunk(bundle)
        shared = bool(bundle.head)
        trunk = list(start) if shared else []
        segments = [TRUNK] * len(trunk)
        positions = list(range(len(trunk)))
        weights = [self._read_weight if read else 0.0] * len(trunk)
        tokens = list(trunk)
        for number, turns in enumerate(bundle.branches, start=1):
            lead = [] if shared else list(start)
            ids, losses, seen = self._branch(turns, len(tokens) + len(lead), values)
            looks += seen
            tokens += lead + ids
            weights += [0.0] * len(lead) + losses
            segments += [number] * (len(lead) + len(ids))
            positions += range(len(trunk), len(trunk) + len(lead) + len(ids))
        return Packed(tokens, positions, segments, weights, looks)


def _looks(packed: list[Packed], sight: Sight) -> tuple[Tensor, Tensor]:
    found = [(row, look) for row, one in enumerate(packed) for look in one.looks if look.sight == sight]
    places = torch.tensor([(row, look.query, look.key) for row, look in found], dtype=torch.long)
    return places.view(-1, 3).T, torch.tensor([look.share for _, look in found])


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
        {sight: _looks(packed, sight) for sight in SIGHTS},
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
