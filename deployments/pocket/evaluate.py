"""Held-out figures of the checkpoints: `python -m deployments.pocket.evaluate`.

Every figure is of the exported bf16 checkpoint, loaded by transformers, prompted through its own
chat template, and decoded greedily to its end; an answer counts when it equals its reference, up
to spaces and capitals.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from deployments.pocket import CHECKPOINTS, NOT_SUPPORTED, NOT_TOLD, PEERS, SIZES, SUPPORTED
from deployments.pocket.card import CARD, FIGURES, write_card
from deployments.pocket.chat import paraphrases
from deployments.pocket.handbook import Style, draw_passage
from deployments.pocket.names import ENTITIES, UNSEEN
from deployments.pocket.packing import header
from deployments.pocket.tasks import SYSTEMS, Bundle, Mix, Turn, turns_about
from deployments.pocket.tokenizer import load_tokenizer

COUNT: Final = 100
"""Passages per number of facts."""

FACTS: Final = (1, 2, 3, 4, 5)
CHECKPOINT_NAMES: Final = (*SIZES, *PEERS)
BATCH: Final = 64
LONGEST_ANSWER: Final = 48
"""In tokens."""


@dataclass(frozen=True, slots=True)
class Case:
    """One single-turn conversation with its reference."""

    group: str
    facts: int
    turn: Turn
    messages: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Result:
    case: Case
    reply: str

    @property
    def exact(self) -> bool:
        return normalise(self.reply) == normalise(self.case.turn.reference)


def normalise(text: str) -> str:
    """Lower case, single spaces."""
    return " ".join(text.lower().split())


def _passage_cases(group: str, rng: Random, facts: int, mix: Mix, system: str = "") -> Iterator[Case]:
    """One question on a told fact, one on an untold one and one draft about a fresh passage."""
    passage = draw_passage(rng, facts, "held_out", mix.style)
    turns = turns_about(rng, passage, mix, "held_out")
    head = f"Passage: {passage.text}\n\n"
    for task in ("answer", "refuse", "judge"):
        turn = next((t for t in turns if t.task == task), None)
        if turn:
            bundle = Bundle(system, head, ((turn,),))
            yield Case(group, facts, turn, bundle.messages(0))


def cases(seed: int, count: int) -> list[Case]:
    """Everything that one checkpoint is asked; the same seed gives the same cases."""
    rng = Random(f"evaluate-{seed}")
    main = Mix(judge=1.0, plain=1.0, refuse=9.0, asks=1)
    found: list[Case] = []
    for facts in FACTS:
        for _ in range(count):
            found += _passage_cases("main", rng, facts, main)
    for _ in range(count):
        found += _passage_cases("longer", rng, 10, main)
        found += _passage_cases("system", rng, rng.choice(FACTS), main, rng.choice(SYSTEMS))
        style = Style(names=UNSEEN, suffixed=0.0, invented=0.0)
        found += _passage_cases("unseen", rng, rng.choice(FACTS), replace(main, style=style))
    for prompt, reply in paraphrases("held_out"):
        turn = Turn("chat", prompt, reply)
        found.append(Case("main", 0, turn, Bundle("", "", ((turn,),)).messages(0)))
    for name in ENTITIES[:40]:
        wish = f"Please give me a passage about {name}."
        turn = Turn("ask_passage", f"Question: Who owns {name}?", wish)
        found.append(Case("main", 0, turn, Bundle("", "", ((turn,),)).messages(0)))
    return found


@torch.no_grad()
def replies(folder: Path, asked: list[Case]) -> list[Result]:
    """Greedy replies of a checkpoint; cases of like length share a batch."""
    torch.set_num_threads(1)
    tokens = load_tokenizer(folder)
    tokens.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    texts = [str(tokens.apply_chat_template(c.messages, tokenize=False)) for c in asked]
    texts = [text + header("assistant") for text in texts]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: dict[int, str] = {}
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        found |= zip(rows, _generate(model, tokens, [texts[i] for i in rows]), strict=True)
    return [Result(case, found[i]) for i, case in enumerate(asked)]


def _generate(model: Any, tokens: PreTrainedTokenizerFast, texts: list[str]) -> list[str]:
    batch = tokens(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    out = model.generate(**batch, max_new_tokens=LONGEST_ANSWER, do_sample=False)
    said = out[:, batch["input_ids"].shape[1] :]
    return [str(text) for text in tokens.batch_decode(said, skip_special_tokens=True)]


def _share(hits: list[bool]) -> float:
    return round(sum(hits) / len(hits), 4) if hits else 0.0


def figures(results: list[Result]) -> dict[str, object]:
    """All figures of one checkpoint; shares are between 0 and 1."""
    main = [r for r in results if r.case.group == "main"]

    def of(task: str, rows: list[Result] = main) -> list[Result]:
        return [r for r in rows if r.case.turn.task == task]

    def group(name: str) -> list[Result]:
        return [r for r in results if r.case.group == name]

    refused = [r for r in of("answer") + of("refuse") if NOT_TOLD in normalise(r.reply)]
    wrong = [r for r in of("judge") if r.case.turn.reference.endswith(NOT_SUPPORTED)]
    return {
        "answer_em": _share([r.exact for r in of("answer")]),
        "answer_n": len(of("answer")),
        "answer_em_by_facts": {str(n): _share([r.exact for r in of("answer") if r.case.facts == n]) for n in FACTS},
        "refusal_precision": _share([r.case.turn.task == "refuse" for r in refused]),
        "refusal_recall": _share([NOT_TOLD in normalise(r.reply) for r in of("refuse")]),
        "refusal_em": _share([r.exact for r in of("refuse")]),
        "refusal_n": len(of("refuse")),
        "judge_accuracy": _share([verdict(r.reply) == verdict(r.case.turn.reference) for r in of("judge")]),
        "judge_n": len(of("judge")),
        "judge_supported_recall": _share([verdict(r.reply) == "yes" for r in of("judge") if r not in wrong]),
        "judge_supported_n": len(of("judge")) - len(wrong),
        "mend_em": _share([r.exact for r in wrong]),
        "mend_n": len(wrong),
        "chat_em": _share([r.exact for r in of("chat")]),
        "chat_n": len(of("chat")),
        "ask_passage_em": _share([r.exact for r in of("ask_passage")]),
        "ask_passage_n": len(of("ask_passage")),
        "answer_em_ten_facts": _share([r.exact for r in of("answer", group("longer"))]),
        "answer_em_system_message": _share([r.exact for r in of("answer", group("system"))]),
        "answer_em_unseen_names": _share([r.exact for r in of("answer", group("unseen"))]),
        "extra_n": len(of("answer", group("longer"))),
    }


def verdict(reply: str) -> str:
    """`yes`, `no` or, when the reply is no verdict, the empty string."""
    said = normalise(reply)
    if said.endswith(normalise(NOT_SUPPORTED)):
        return "no"
    return "yes" if said.endswith(normalise(SUPPORTED)) else ""


def evaluate(seed: int, count: int, names: tuple[str, ...] = CHECKPOINT_NAMES) -> dict[str, dict[str, object]]:
    """Figures per checkpoint."""
    asked = cases(seed, count)
    return {name: figures(replies(CHECKPOINTS / name, asked)) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--size", choices=CHECKPOINT_NAMES, action="append", help="default: all")
    given = parser.parse_args()
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    known |= evaluate(given.seed, given.count, tuple(given.size or CHECKPOINT_NAMES))
    known = {name: known[name] for name in CHECKPOINT_NAMES if name in known}
    FIGURES.write_text(json.dumps(known, indent=2) + "\n")
    write_card(known, CARD)


if __name__ == "__main__":
    main()
