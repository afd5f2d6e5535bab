"""How many tokens a request may take, before anyone has counted: what a quota reserves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BYTES_PER_TOKEN = 4
ANSWER_TOKENS = 512
"""Of a request that does not say how long its answer may be."""


@dataclass(frozen=True)
class Estimate:
    """context_tokens: served id -> the longest prompt and answer of that model together."""

    context_tokens: Mapping[str, int] = field(default_factory=dict)

    def tokens(self, model: str | None, text_bytes: int, answer_tokens: int | None, answers: int = 1) -> int:
        """Prompts, by their bytes, and so many answers, one at least; no more than the model can take for each."""
        answers = max(1, answers)
        wanted = prompt_tokens(text_bytes) + answers * max(1, answer_tokens or ANSWER_TOKENS)
        return min(wanted, answers * self.context_tokens.get(model or "", wanted))


def prompt_tokens(text_bytes: int) -> int:
    """By the bytes of a text, or of the JSON that holds it."""
    return max(0, text_bytes) // BYTES_PER_TOKEN
