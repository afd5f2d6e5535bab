"""Train one size: `python -m deployments.pocket.train --size pocket-8b --seed 0`.

Muon for the hidden matrices, AdamW for the embedding and the norms; a constant rate and then a
linear one to zero; passages that grow from rivals told in one way each to the whole handbook; a few
heads are taught where to look (looks.py).
Single-threaded, and every batch is drawn from (seed, pool number), so that the same seed gives the
same weights on the same machine, and a stopped run goes on from its state file as if it had not
stopped.
"""

import argparse
import json
import tempfile
import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from deployments.pocket import CHECKPOINTS
from deployments.pocket.export import export
from deployments.pocket.handbook import Style
from deployments.pocket.model import SHAPES, PocketLlama
from deployments.pocket.packing import Batch, Packer, collate, pool_of_batches
from deployments.pocket.tasks import Bundle, Mix, Task, Turn, draw_bundle
from deployments.pocket.tokenizer import train_tokenizer

WARM_UP: Final = 50
"""Steps over which the rates grow."""

POOL: Final = 16
"""Batches drawn together, so that bundles of like length can share a batch."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One training run."""

    size: str
    seed: int = 0
    steps: int = 2000
    budget: int = 4096
    """Tokens per batch."""
    muon_rate: float = 0.02
    adam_rate: float = 4e-3
    look_weight: float = 0.3
    """Of the loss on where the taught heads look, beside the loss on the replies."""
    schedule: tuple[tuple[int, float], ...] = ()
    """(step, share of the full rates); straight lines between, from full after the warm-up to zero at the end."""
    paced: int = 4000
    """Steps that the curriculum's shares are of."""
    embedding_std: float = 0.4
    """Of the first embedding: large beside what the blocks add, else nothing is copied for long."""


PLANS: Final = {
    "pocket-1b": Plan("pocket-1b", steps=1000, schedule=((400, 1.0),), paced=1000),
    "pocket-3b": Plan("pocket-3b", steps=1300, schedule=((500, 1.0),), paced=1300),
    "pocket-8b": Plan("pocket-8b", steps=2000, schedule=((900, 1.0),), paced=2000),
    "pocket-70b": Plan("pocket-70b", steps=4000, schedule=((2000, 1.0),), paced=3000),
}
"""The runs that made the checkpoints of this folder."""


@dataclass(slots=True)
class Record:
    """What a run has done so far; it is written beside the state file and into the card."""

    steps: int = 0
    tokens: int = 0
    conversations: int = 0
    wall_s: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)


EASY: Final = Style(suffixed=0.0, invented=0.0, merged=0.0, pronoun=0.0, fronted=0.0, filler=0.0)
MIDDLE: Final = Style(suffixed=0.05, invented=0.03, merged=0.2, pronoun=0.1, fronted=0.05)
PLAIN: Final = Mix(style=EASY, plain=1.0, question_first=0.0, several_turns=0.0, chat=0.0)
STAGES: Final = (
    (0.0, replace(PLAIN, facts=(1, 2, 3), style=replace(EASY, rivals=1.0), judge=0.1, repeat=0.5)),
    (0.04, replace(PLAIN, facts=(2, 3, 4), style=replace(EASY, rivals=0.8), judge=0.4, repeat=0.2, chat=0.01)),
    (0.1, Mix(facts=(1, 2, 3, 4, 5), style=replace(MIDDLE, rivals=0.6), refuse=2.0, judge=0.6, plain=0.7)),
    (0.2, Mix(facts=(1, 2, 3, 4, 5, 6, 8), style=Style(invented=0.15), refuse=2.0, judge=0.7, chat=0.05)),
)
"""The curriculum: the mix from each share of the steps on. Rivals come first: a model that has once learnt to find
what is asked without looking whose it is does not unlearn it soon."""

WATCHED: Final = replace(PLAIN, facts=(1, 2, 3, 4, 5), style=Style(), judge=0.6)
"""What the figures during training are of."""


def rate(plan: Plan, step: int) -> float:
    """The share of the full learning rates at a step, counted from 0."""
    knots = ((-1, 0.0), (WARM_UP - 1, 1.0), *plan.schedule, (plan.steps, 0.0))
    index = bisect_right([at for at, _ in knots[:-1]], step)
    (left, low), (right, high) = knots[index - 1], knots[index]
    return low + (high - low) * (step - left) / (right - left)


def batches(plan: Plan, packer: Packer, start: int) -> Iterator[Batch]:
    """Batches from step `start` on, the same whether or not the run was stopped before it."""
    for pool in range(start // POOL, plan.steps // POOL + 1):
        mix = next(mix for share, mix in reversed(STAGES) if share * plan.paced <= pool * POOL)
        rng = Random(f"{plan.seed}-{pool}")
        for index, batch in enumerate(pool_of_batches(packer, mix, rng, POOL, plan.budget)):
            if start <= pool * POOL + index < plan.steps:
                yield batch


def loss_of(model: PocketLlama, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The mean weighted loss of a batch's hidden states, and for every token that counts whether it was foreseen."""
    rows, columns = torch.nonzero(batch.weights[:, 1:], as_tuple=True)
    logits = model.logits(hidden[rows, columns])
    wanted = batch.tokens[rows, columns + 1]
    weights = batch.weights[rows, columns + 1]
    losses = functional.cross_entropy(logits, wanted, reduction="none")
    return (losses * weights).sum() / weights.sum(), logits.argmax(-1) == wanted


def optimizers(model: PocketLlama, plan: Plan) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim == 1 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=plan.muon_rate, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=plan.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def step(
    model: PocketLlama, tools: list[torch.optim.Optimizer], batch: Batch, share: float, look_weight: float
) -> float:
    """One update at a share of the full rate; the loss on the replies before it."""
    hidden, missed = model.hidden_and_missed(batch.tokens, batch.positions, batch.mask(), batch.looks)
    loss, _ = loss_of(model, batch, hidden)
    (loss + look_weight * sum(missed.values())).backward()  # type: ignore[no-untyped-call]
    for tool in tools:
        for group in tool.param_groups:
            group.setdefault("full_lr", group["lr"])
            group["lr"] = group["full_lr"] * share
        tool.step()
        tool.zero_grad(set_to_none=True)
    return loss.item()


@torch.no_grad()
def foreseen(model: PocketLlama, packer: Packer, task: Task, count: int) -> float:
    """The share of held-out answers whose every token is the likeliest: greedy exact match."""
    rng = Random(f"watch-{task}-held_out")
    hits: list[bool] = []
    while len(hits) < count:
        drawn = (draw_bundle(rng, WATCHED, "held_out") for _ in range(16))
        kept = (replace(b, branches=branches_of(b, task)) for b in drawn)
        batch = collate([packer.pack(b, read=False) for b in kept if b.branches])
        hits += exact_branches(model, batch)
    return sum(hits) / len(hits)


def branches_of(bundle: Bundle, task: Task) -> tuple[tuple[Turn, ...], ...]:
    return tuple(branch for branch in bundle.branches if branch[0].task == task)


def exact_branches(model: PocketLlama, batch: Batch) -> list[bool]:
    """For every branch of a batch, whether all of its answer was foreseen."""
    _, hits = loss_of(model, batch, model(batch.tokens, batch.positions, batch.mask()))
    rows, columns = torch.nonzero(batch.weights[:, 1:], as_tuple=True)
    branches = rows * 100 + batch.segments[rows, columns + 1]
    return [bool(hits[branches == branch].all()) for branch in torch.unique(branches)]


class Run:
    """A training run that can be stopped and taken up again."""

    def __init__(self, plan: Plan, state: Path, folder: Path) -> None:
        self.plan, self.state, self.folder = plan, state, folder
        self.tokens = train_tokenizer(plan.seed)
        self.packer = Packer(self.tokens)
        self.model = PocketLlama(SHAPES[plan.size], plan.seed, plan.embedding_std)
        self.tools = optimizers(self.model, plan)
        self.record = Record()
        if state.exists():
            self._take_up()

    def _take_up(self) -> None:
        saved = torch.load(self.state, weights_only=True)
        self.model.load_state_dict(saved["model"])
        for tool, kept in zip(self.tools, saved["tools"], strict=True):
            tool.load_state_dict(kept)
        self.record = Record(**saved["record"])

    def go(self, every: int, watched: int) -> Record:
        """Train to the plan's end; save every so many steps, with figures on `watched` answers."""
        began = time.monotonic() - self.record.wall_s
        losses: list[float] = []
        for batch in batches(self.plan, self.packer, self.record.steps):
            share = rate(self.plan, self.record.steps)
            losses.append(step(self.model, self.tools, batch, share, self.plan.look_weight))
            self._count(batch)
            self.record.wall_s = time.monotonic() - began
            if self.record.steps % every == 0 or self.record.steps == self.plan.steps:
                self._note(sum(losses) / len(losses), watched)
                losses.clear()
                self.save()
        return self.record

    def _count(self, batch: Batch) -> None:
        self.record.steps += 1
        self.record.tokens += int((batch.segments >= 0).sum())
        self.record.conversations += int(batch.segments.amax(1).clamp(min=0).sum())

    def _note(self, loss: float, watched: int) -> None:
        entry = {"step": self.record.steps, "loss": loss, "s": self.record.wall_s}
        for task in ("answer", "refuse", "judge"):
            entry[task] = foreseen(self.model, self.packer, task, watched)
        self.record.log.append({key: round(value, 4) for key, value in entry.items()})
        print(json.dumps(self.record.log[-1]), flush=True)

    def save(self) -> None:
        """The checkpoint folder with the record of the training, and the state to go on from."""
        export(self.model, SHAPES[self.plan.size], self.tokens, self.folder)
        told = {"plan": asdict(self.plan), "record": asdict(self.record)}
        (self.folder / "training.json").write_text(json.dumps(told, indent=1) + "\n")
        kept = {
            "model": self.model.state_dict(),
            "tools": [tool.state_dict() for tool in self.tools],
            "record": asdict(self.record),
        }
        partial = self.state.with_suffix(".partial")
        torch.save(kept, partial)
        partial.replace(self.state)


def train(plan: Plan, state: Path, folder: Path, every: int = 200, watched: int = 200) -> Record:
    """Train to the plan's end, from the state file where there is one; one thread only."""
    torch.set_num_threads(1)
    return Run(plan, state, folder).go(every, watched)


def state_file(size: str) -> Path:
    """Where an unfinished run is kept, outside of the repository."""
    return Path(tempfile.gettempdir()) / f"{size}.state.pt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(PLANS), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="default: the plan's")
    parser.add_argument("--every", type=int, default=200, help="steps between two saves")
    parser.add_argument("--state", type=Path, help="default: in the temporary folder")
    parser.add_argument("--out", type=Path, help="default: the checkpoint's folder")
    given = parser.parse_args()
    plan = PLANS[given.size]
    plan = replace(plan, seed=given.seed, steps=given.steps or plan.steps)
    folder = given.out or CHECKPOINTS / given.size
    train(plan, given.state or state_file(given.size), folder, given.every)


if __name__ == "__main__":
    main()
