"""What a load is told by its options, and by the endpoint before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loadtests.client.dialect import PLAIN, VLLM, Dialect
from loadtests.client.prompts import WORDS_PER_TOKEN
from loadtests.client.sharegpt import MOST_TOKENS
from loadtests.records import Kind, Limits
from loadtests.swarm.arguments import ARGUMENTS, DAY_S
from loadtests.swarm.mix import Mix, mix_of
from loadtests.swarm.thinking import Thinking, thinking_of

FIELDS = (
    "model", "shape", "workload", "input_tokens", "output_tokens", "seed", "temperature", "bulk_items", "tribunal",
    "collection",
)  # fmt: skip
"""Taken as they are."""


@dataclass(frozen=True)
class Settings:
    """A load's options, checked."""

    model: str
    mix: Mix | None
    """None: not asked for."""
    think: Thinking
    shape: str
    workload: str
    input_tokens: int
    output_tokens: int
    seed: int
    temperature: float
    bulk_items: int
    tribunal: str
    collection: str
    timeout_s: float
    limits: Limits
    json_out: Path | None
    told: Mapping[str, object] = field(default_factory=dict)
    """As they were given, for the record."""

    @classmethod
    def of(cls, options: object) -> Settings:
        """From Locust's parsed options, or what its page made of them. Raises OptionError."""
        told = {each.field: getattr(options, each.field) for each in ARGUMENTS}
        for each in ARGUMENTS:
            if each.on_page:
                each.check(told[each.field])
        limits = Limits(**{name: told[name] or None for name in ("ttft_ms", "itl_ms", "e2e_ms")})
        return cls(
            **{name: told[name] for name in FIELDS},
            mix=mix_of(told["mix"]) if told["mix"].strip() else None,
            think=thinking_of(told["think"]),
            timeout_s=told["request_timeout"] or DAY_S,
            limits=limits,
            json_out=Path(told["json_out"]) if told["json_out"] else None,
            told=told,
        )

    def weight(self, kind: Kind, chosen: bool) -> float:
        """Of a kind's users. `chosen`: the command line names their class, and so wants them."""
        if self.mix is None:
            return 1.0 if chosen or kind is Kind.CHAT else 0.0
        return self.mix.get(kind, 0.0)


@dataclass(frozen=True)
class Found:
    """What the endpoint said of itself before the load began."""

    model: str = ""
    plain: bool = False
    """It refuses vLLM's own fields."""
    words_per_token: float = WORDS_PER_TOKEN
    template_tokens: int = 0
    most_tokens: int = MOST_TOKENS
    """Of a file's conversation, question and answer together."""

    @property
    def dialect(self) -> Dialect:
        return PLAIN if self.plain else VLLM

    def to_wire(self) -> dict[str, object]:
        """For the workers: Found(**this)."""
        return asdict(self)
