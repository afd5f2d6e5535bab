"""How many tokens a request may take, before anyone has counted: what a quota reserves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BYTES_PER_TOKEN = 4
ANSWER_TOKENS = 512
"""Of a request that does not say how long its answer may be, and of whatever asks several models."""


@dataclass(frozen=True)
class Estimate:
    """context_tokens: served id -> the longest prompt and answer of that model together."""

    context_tokens: Mapping[str, int] = field(default_factory=dict)

    def tokens(self, model: str | None, body_bytes: int, answer_tokens: int | None) -> int:
        """Prompt, by its bytes, and answer; no more than the model can take, nor less than one."""
        wanted = max(0, body_bytes) // BYTES_PER_TOKEN + max(1, answer_tokens or ANSWER_TOKENS)
        return min(wanted, self.context_tokens.get(model or "", wanted))
