"""What a tribunal tells while it works: a versioned envelope that can be sent, kept and read again from any place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

VERSION = 1


class EventType(StrEnum):
    """RESULT or ERROR is the last event of every tribunal, and nothing else is."""

    STEP_STARTED = "step.started"
    """step, kind, round, member, model"""
    DRAFT_DELTA = "draft.delta"
    """step, member, text: a piece of a draft, a revision or a critique"""
    DRAFT_DONE = "draft.done"
    """step, kind, round, member, model, text, usage, seconds"""
    REVIEW_DONE = "review.done"
    """step, round, member, model, scores, abstained, usage, seconds"""
    MEMBER_ABSENT = "member.absent"
    """step, member, model, reason"""
    ROUND_DONE = "round.done"
    """round, ranking"""
    STOP_REASON = "stop.reason"
    """reason, detail"""
    ANSWER_DELTA = "answer.delta"
    """text; replaces: true, where it stands for all that was told of the answer before"""
    RESULT = "result"
    """result: result.Result.to_json()"""
    ERROR = "error"
    """error: as the caller's surface shows errors"""


@dataclass(frozen=True)
class Event:
    """One thing that happened. `seq` counts from 1 within a run, without gaps."""

    run_id: str
    seq: int
    type: EventType
    data: Mapping[str, Any] = field(default_factory=dict)

    def envelope(self) -> dict[str, Any]:
        return {"v": VERSION, "id": self.run_id, "seq": self.seq, "type": self.type.value, **self.data}
