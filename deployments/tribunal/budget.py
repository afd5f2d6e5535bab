"""Tokens of one tribunal: what may still be spent, and how many a text probably is before an engine has counted it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

LEAST_ANSWER = 16
"""An answer cut shorter than this many tokens is worth nothing."""
TOKENS_PER_BYTE = 0.3
"""At least, of UTF-8: English has about 0.25, small vocabularies more."""
TEMPLATE = 32
"""What a chat template puts around a prompt."""
TELLING = 200
"""Bytes from which on a prompt says something about the rate; in a shorter one the template is most of it."""


class OutOfBudget(Exception):
    """What is left does not pay for one more answer."""


@dataclass
class TokenRates:
    """Tokens per byte of each model's prompts, the most that its engine has counted; rather too many than too few."""

    seen: dict[str, float] = field(default_factory=dict)

    def estimate(self, model: str, messages: Sequence[dict[str, Any]]) -> int:
        return ceil(size(messages) * self.seen.get(model, TOKENS_PER_BYTE)) + TEMPLATE

    def learn(self, model: str, messages: Sequence[dict[str, Any]], prompt_tokens: int) -> None:
        if prompt_tokens:
            rate = (prompt_tokens - TEMPLATE) / max(size(messages), TELLING)
            self.seen[model] = max(rate, self.seen.get(model, TOKENS_PER_BYTE))


def size(messages: Sequence[dict[str, Any]]) -> int:
    """Bytes of UTF-8."""
    return sum(len(str(message["content"]).encode(errors="replace")) for message in messages)


@dataclass
class Budget:
    """limit: tokens, None for no bound. Calls reserve before they ask and settle by what the engine counted."""

    limit: int | None
    spent: int = 0
    reserved: int = 0

    @property
    def left(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.spent - self.reserved)

    def share(self, calls: int, keep: float) -> int | None:
        """What each of so many calls may take in all, if the share `keep` of what is left is for later."""
        return None if self.left is None else int(self.left * (1 - keep) / max(1, calls))

    def reserve(self, prompt: int, want: int, share: int | None) -> int:
        """Tokens that the answer may have, at most `want`. Raises OutOfBudget."""
        if self.left is None:
            return want
        granted = min(want, min(self.left, self.left if share is None else share) - prompt)
        if granted < min(want, LEAST_ANSWER):
            raise OutOfBudget
        self.reserved += prompt + granted
        return granted

    def settle(self, reserved: int, used: int) -> None:
        """A call has ended: `reserved` is prompt and answer as it was reserved."""
        if self.limit is not None:
            self.reserved -= reserved
        self.spent += used
