"""One council of three as its listeners hear it, and the result it comes to: made of the real events and results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.chat import Usage
from deployments.tribunal.events import Event, EventType
from deployments.tribunal.result import Absence, Kind, Ranked, Result, Step, usage_json

Envelope = Mapping[str, Any]
RUN = "run-1"
ANSWER = "In the corral, where else?"


def step(number: int, kind: Kind, member: str, started_s: float, seconds: float, **more: Any) -> Step:
    return Step(number, kind, 0 if kind == "draft" else 1, member, member, started_s, seconds, **more)


FIRST = step(1, "draft", "small", 0, 0.5, text="In the corral.", usage=Usage(5, 4))
LATER = step(2, "draft", "middle", 0, 0.2, text="On the hill.", usage=Usage(5, 3))
GONE = step(3, "draft", "large", 0, 0.3, failed="the model 'large' is failed")
REVIEW = step(4, "review", "small", 0.5, 0.1, usage=Usage(20, 6), scores={"middle": {"accuracy": 4.0, "clarity": 7.5}})
SILENT = step(5, "review", "middle", 0.5, 0.2, usage=Usage(40, 12), retried=True, abstained=True)
SYNTHESIS = step(6, "synthesis", "small", 0.7, 0.3, text=ANSWER, usage=Usage(30, 6))
RANKING = (
    Ranked(1, ("small",), FIRST.text, 1.0, {"accuracy": 8.0}),
    Ranked(2, ("middle",), LATER.text, 0.25, {"accuracy": 4.0}),
)
STOPPED = {"reason": "leader", "detail": "no review still to come could change who leads"}
TOLD = Result(
    id=RUN,
    tribunal="default",
    strategy="council",
    answer=ANSWER,
    chosen_by="chair",
    stopped=STOPPED,
    ranking=RANKING,
    dissent=({"member": "middle", "preferred": ["middle"]},),
    absent=(Absence("large", "large", 3, "the model 'large' is failed"),),
    trace=(FIRST, LATER, GONE, REVIEW, SILENT, SYNTHESIS),
    seconds=1.0,
    single=FIRST,
)
RESULT = TOLD.to_json()

TRACE = """middle drafted (3 tokens, 0.2 s):
On the hill.

large was absent: the model 'large' is failed

small drafted (4 tokens, 0.5 s):
In the corral.

small reviewed (6 tokens, 0.1 s): middle accuracy 4, clarity 7.5

middle abstained: its review could not be read

Ranking: 1. small (1.00), 2. middle (0.25)

Stop: leader (no review still to come could change who leads)

"""
"""How it came about, for people."""


def told(*events: tuple[EventType, Mapping[str, Any]]) -> tuple[Envelope, ...]:
    """Envelopes of one run."""
    return tuple(Event(RUN, seq, kind, data).envelope() for seq, (kind, data) in enumerate(events, 1))


def _asked(asked: Step) -> tuple[EventType, dict[str, Any]]:
    return EventType.STEP_STARTED, _who(asked)


def _who(of: Step) -> dict[str, Any]:
    return {"step": of.step, "kind": of.kind, "round": of.round, "member": of.member, "model": of.model}


def _done(done: Step, **more: Any) -> dict[str, Any]:
    return {**_who(done), "usage": usage_json(done.usage), "seconds": done.seconds, **more}


SCRIPT = told(
    *[_asked(asked) for asked in (FIRST, LATER, GONE)],
    (EventType.DRAFT_DELTA, {"step": 1, "member": "small", "text": "In the"}),
    (EventType.DRAFT_DONE, _done(LATER, text=LATER.text)),
    (EventType.MEMBER_ABSENT, vars(TOLD.absent[0])),
    (EventType.DRAFT_DONE, _done(FIRST, text=FIRST.text)),
    *[_asked(asked) for asked in (REVIEW, SILENT)],
    (EventType.REVIEW_DONE, _done(REVIEW, scores=REVIEW.scores)),
    (EventType.REVIEW_DONE, _done(SILENT, abstained=True)),
    (EventType.ROUND_DONE, {"round": 1, "ranking": [place.to_json() for place in RANKING]}),
    (EventType.STOP_REASON, STOPPED),
    _asked(SYNTHESIS),
    (EventType.ANSWER_DELTA, {"text": "In the corral,"}),
    (EventType.ANSWER_DELTA, {"text": " where else?"}),
    (EventType.DRAFT_DONE, _done(SYNTHESIS, text=ANSWER)),
    (EventType.RESULT, {"result": RESULT}),
)
ERROR = {
    "message": "1 of at least 2 members drafted.",
    "type": "server_error",
    "param": None,
    "code": "no_quorum",
}
FAILING = told(
    _asked(FIRST),
    (EventType.DRAFT_DONE, _done(FIRST, text=FIRST.text)),
    (EventType.ERROR, {"error": ERROR}),
)
"""Of another one, which too few members answered."""
