"""What a tribunal comes to: the answer, how the drafts ranked, who dissented, every step, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deployments.chat import Usage

Kind = Literal["draft", "review", "critique", "revision", "synthesis"]
ChosenBy = Literal["single", "chair", "borda", "vote", "consensus", "revision"]


@dataclass(frozen=True)
class Step:
    """One call of one model. Times are seconds since the tribunal began.

    failed: why there is no text; abstained: it answered twice with what does not parse.
    """

    step: int
    kind: Kind
    round: int
    member: str
    model: str
    started_s: float
    seconds: float
    text: str = ""
    usage: Usage = field(default_factory=Usage)
    scores: dict[str, dict[str, float]] | None = None
    retried: bool = False
    abstained: bool = False
    failed: str | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Step:
        """The step that `to_json` told of."""
        usage = Usage(told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"])
        return cls(**{**told, "usage": usage})

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "step": self.step, "kind": self.kind, "round": self.round, "member": self.member, "model": self.model,
            "started_s": round(self.started_s, 4), "seconds": round(self.seconds, 4), "text": self.text,
            "usage": usage_json(self.usage),
        }  # fmt: skip
        optional = {"scores": self.scores, "retried": self.retried, "abstained": self.abstained, "failed": self.failed}
        return {**told, **{key: value for key, value in optional.items() if value}}


@dataclass(frozen=True)
class Ranked:
    """One of the drafts as the tribunal ranked it. Members whose drafts say the same share a place.

    points: mean Borda points of the ballots, from 0 (always last) to 1 (always first); of a vote, the share of votes.
    scores: criterion -> mean of the reviewers' scores.
    """

    rank: int
    members: tuple[str, ...]
    text: str
    points: float
    scores: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "rank": self.rank, "members": list(self.members), "text": self.text, "points": round(self.points, 4),
            "scores": {name: round(value, 4) for name, value in self.scores.items()},
        }  # fmt: skip


@dataclass(frozen=True)
class Absence:
    """A member that could not be heard, from which step on, and why."""

    member: str
    model: str
    step: int
    reason: str


@dataclass(frozen=True)
class Result:
    """What comes out of a sitting.

    chosen_by: what made the answer. stopped: why it deliberated no longer. single: the call that the cost is compared
    with: the first draft, by the chair where it drafted.
    """

    id: str
    tribunal: str
    strategy: str
    answer: str
    chosen_by: ChosenBy
    stopped: dict[str, str]
    ranking: tuple[Ranked, ...]
    dissent: tuple[dict[str, Any], ...]
    absent: tuple[Absence, ...]
    trace: tuple[Step, ...]
    seconds: float
    single: Step | None = None
    finish_reason: str = "stop"

    @property
    def usage(self) -> Usage:
        return Usage(
            sum(step.usage.prompt_tokens for step in self.trace),
            sum(step.usage.completion_tokens for step in self.trace),
        )

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Result:
        """The result that `to_json` told of."""
        trace = tuple(Step.of(step) for step in told["trace"])
        once = told["cost"]["single"] or {}
        drafts = [step for step in trace if step.kind == "draft" and not step.failed]
        single = next((step for step in drafts if step.member == once.get("member")), None)
        plain = ("id", "tribunal", "strategy", "answer", "finish_reason", "chosen_by", "stopped", "seconds")
        return cls(
            **{name: told[name] for name in plain},
            ranking=tuple(Ranked(**{**each, "members": tuple(each["members"])}) for each in told["ranking"]),
            dissent=tuple(told["dissent"]),
            absent=tuple(Absence(**each) for each in told["absent"]),
            trace=trace,
            single=single,
        )

    def to_json(self) -> dict[str, Any]:
        reviews = [step for step in self.trace if step.kind == "review"]
        return {
            "id": self.id,
            "object": "tribunal",
            "tribunal": self.tribunal,
            "strategy": self.strategy,
            "answer": self.answer,
            "finish_reason": self.finish_reason,
            "chosen_by": self.chosen_by,
            "stopped": self.stopped,
            "ranking": [ranked.to_json() for ranked in self.ranking],
            "scores": [{"round": r.round, "reviewer": r.member, "scores": r.scores} for r in reviews if r.scores],
            "dissent": list(self.dissent),
            "absent": [vars(absence) for absence in self.absent],
            "abstained": [{"member": r.member, "step": r.step} for r in self.trace if r.abstained],
            "trace": [step.to_json() for step in self.trace],
            "usage": {**usage_json(self.usage), "calls": len(self.trace)},
            "cost": self._cost(),
            "seconds": round(self.seconds, 4),
        }

    def _cost(self) -> dict[str, Any]:
        """What the whole took against asking one model once."""
        if self.single is None or not self.single.usage.total_tokens:
            return {"tokens": self.usage.total_tokens, "single": None}
        once = self.single
        return {
            "tokens": self.usage.total_tokens,
            "single": {"member": once.member, "model": once.model, "tokens": once.usage.total_tokens,
                       "seconds": round(once.seconds, 4)},
            "times_tokens": round(self.usage.total_tokens / once.usage.total_tokens, 3),
            "times_seconds": round(self.seconds / once.seconds, 3) if once.seconds else None,
        }  # fmt: skip


def usage_json(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }  # fmt: skip
