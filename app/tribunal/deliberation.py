"""What a tribunal has come to so far, folded from its envelopes: who drafts, who said what, how the drafts rank."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deployments.tribunal.events import EventType

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""All but tab and newline: what moves a cursor, colours, turns the writing around, or cannot be written at all."""


def clean(value: Any) -> Any:
    """JSON with every text in it fit for a terminal, wherever it came from."""
    if isinstance(value, str):
        return CONTROL.sub("", value)
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, list) else value


@dataclass
class Call:
    """One call of one member. `began` by the watcher's clock; `seconds` and `tokens` are None until it has answered.

    reason: why it is absent, else None.
    """

    kind: str
    round: int
    member: str
    model: str
    began: float
    text: str = ""
    seconds: float | None = None
    tokens: int | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    abstained: bool = False
    reason: str | None = None

    @property
    def runs(self) -> bool:
        return self.seconds is None and self.reason is None


@dataclass
class Deliberation:
    """Everything told so far; `over` once there is a result. Envelopes of unknown types are ignored."""

    calls: dict[tuple[int, str], Call] = field(default_factory=dict)
    rankings: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    stopped: tuple[str, str] | None = None
    answer: str = ""
    over: bool = False

    @property
    def seats(self) -> dict[str, list[Call]]:
        """Member -> its calls in order. Who only writes the answer has no seat."""
        seats: dict[str, list[Call]] = {}
        for call in self.calls.values():
            if call.kind != "synthesis":
                seats.setdefault(call.member, []).append(call)
        return seats

    @property
    def writer(self) -> str | None:
        """Who writes the answer, if it is written anew."""
        return next((call.member for call in reversed(self.calls.values()) if call.kind == "synthesis"), None)

    def fold(self, envelope: Mapping[str, Any], now: float) -> None:
        """Take in one envelope that is clean."""
        match envelope["type"]:
            case EventType.ROUND_DONE:
                self.rankings[envelope["round"]] = envelope["ranking"]
            case EventType.STOP_REASON:
                self.stopped = envelope["reason"], envelope.get("detail") or ""
            case EventType.ANSWER_DELTA:
                self.answer = ("" if envelope.get("replaces") else self.answer) + envelope["text"]
            case EventType.RESULT:
                self.over = True
            case EventType.MEMBER_ABSENT:
                self._absent(envelope, now)
            case _ if "step" in envelope:
                self._fold_call(self._call(envelope, now), envelope)

    def _fold_call(self, call: Call, envelope: Mapping[str, Any]) -> None:
        match envelope["type"]:
            case EventType.DRAFT_DELTA:
                call.text += envelope["text"]
            case EventType.DRAFT_DONE | EventType.REVIEW_DONE:
                call.seconds, call.tokens = envelope["seconds"], envelope["usage"]["completion_tokens"]
                call.text, call.abstained = envelope.get("text") or "", bool(envelope.get("abstained"))
                call.scores = envelope.get("scores") or {}

    def _absent(self, envelope: Mapping[str, Any], now: float) -> None:
        """Who is absent answers none of its calls; the step of who was only late is not its own."""
        waiting = [call for call in self.calls.values() if call.member == envelope["member"] and call.runs]
        for call in waiting or [self._call(envelope, now)]:
            call.reason = envelope["reason"]

    def _call(self, envelope: Mapping[str, Any], now: float) -> Call:
        """The call of an envelope; one that was never told to have started starts now."""
        member = envelope["member"]
        new = Call(envelope.get("kind", "draft"), envelope.get("round", 0), member, envelope.get("model", member), now)
        return self.calls.setdefault((envelope["step"], member), new)
