"""How an answer came about, as text for people: the same whether told event by event or from the result at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deployments.tribunal.events import EventType

VERBS = {"draft": "drafted", "revision": "revised", "critique": "criticised", "review": "reviewed"}
"""Kinds of steps that are told. A synthesis is not: its text is the answer."""
DONE = "done"
"""The reason of a tribunal that took every step."""


class TraceText:
    """Tells envelopes as text. What a person reads as one thing is one piece, and ends with an empty line.

    Drafts are told when they are whole, for those of several members are written at the same time.
    Ranking and stop are told once, in this order, when the answer begins: until then they may change.

    complete: nothing is told any more, and the answer may be. It begins when a synthesis speaks, else with the
    result. Where a synthesis was tried, a ranking is told only if a round led to it: that of the first drafts alone
    is known too late.
    """

    def __init__(self) -> None:
        self._ranking = self._stop = ""
        self._synthesis = self._round = self.complete = False

    def of(self, envelope: Mapping[str, Any]) -> str:
        """What this event adds; "" if nothing."""
        return "" if self.complete else self._told(envelope)

    def _told(self, envelope: Mapping[str, Any]) -> str:
        match envelope["type"]:
            case EventType.STEP_STARTED:
                self._synthesis |= _is_synthesis(envelope)
            case EventType.DRAFT_DONE:
                self._round |= envelope["kind"] == "revision"
                return draft_text(envelope)
            case EventType.REVIEW_DONE:
                self._round = True
                return review_text(envelope)
            case EventType.MEMBER_ABSENT:
                return f"{envelope['member']} was absent: {envelope['reason']}\n\n"
            case EventType.ROUND_DONE:
                self._ranking = ranking_text(envelope["ranking"])
            case EventType.STOP_REASON:
                self._stop = stop_text(envelope)
            case EventType.ANSWER_DELTA if self._synthesis:
                return self._end()
            case EventType.RESULT:
                result = envelope["result"]
                self._ranking, self._stop = ranking_text(result["ranking"]), stop_text(result["stopped"])
                self._synthesis |= any(map(_is_synthesis, result["trace"]))
                return self._end()
        return ""

    def _end(self) -> str:
        self.complete = True
        return (self._ranking if self._round or not self._synthesis else "") + self._stop


def trace_text(result: Mapping[str, Any]) -> str:
    """The whole of a result.Result.to_json()."""
    told = TraceText()
    return "".join(told.of(envelope) for envelope in _events(result))


def draft_text(step: Mapping[str, Any]) -> str:
    """ "" for what is the answer."""
    if step["kind"] not in VERBS:
        return ""
    return _abstained(step) or f"{_who(step)}:\n{step['text'].strip()}\n\n"


def review_text(step: Mapping[str, Any]) -> str:
    step = {**step, "kind": "review"}
    if abstained := _abstained(step):
        return abstained
    scores = [f"{member} {scores_text(given)}" for member, given in (step.get("scores") or {}).items()]
    return f"{_who(step)}: {'; '.join(scores) or 'no scores'}\n\n"


def ranking_text(ranking: Sequence[Mapping[str, Any]]) -> str:
    """One line of the places, each with its points; "" where there was nothing to rank."""
    places = [f"{place['rank']}. {' and '.join(place['members'])} ({place['points']:.2f})" for place in ranking]
    return f"Ranking: {', '.join(places)}\n\n" if sum(len(place["members"]) for place in ranking) > 1 else ""


def stop_text(stopped: Mapping[str, Any]) -> str:
    """Why it stopped early; "" where nothing was left to be done, which is told only after the answer."""
    if stopped.get("reason") in (None, DONE):
        return ""
    detail = stopped.get("detail")
    return f"Stop: {stopped['reason']}{f' ({detail})' if detail else ''}\n\n"


def _abstained(step: Mapping[str, Any]) -> str:
    why = step.get("failed") or f"its {step['kind']} could not be read"
    return f"{step['member']} abstained: {why}\n\n" if step.get("abstained") else ""


def _who(step: Mapping[str, Any]) -> str:
    again = f" in round {step['round']}" if step["round"] > 1 else ""
    took = f"{step['usage']['completion_tokens']} tokens, {step['seconds']:.1f} s"
    return f"{step['member']} {VERBS[step['kind']]}{again} ({took})"


def scores_text(given: Mapping[str, float]) -> str:
    """The criteria of one draft."""
    return ", ".join(f"{criterion} {score:g}" for criterion, score in given.items())


def _events(result: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What a listener was told, as far as it becomes text: the steps as they ended, then ranking and stop."""
    ended = {step["step"]: step["started_s"] + step["seconds"] for step in result["trace"]}
    heard = [step for step in result["trace"] if step.get("abstained") or not step.get("failed")]
    steps = [{**step, "type": EventType.REVIEW_DONE if _is_review(step) else EventType.DRAFT_DONE} for step in heard]
    absent = [{**absence, "type": EventType.MEMBER_ABSENT} for absence in result["absent"]]
    yield from sorted([*steps, *absent], key=lambda told: (ended.get(told["step"], 0.0), told["step"]))
    yield {"type": EventType.RESULT, "result": result}


def _is_synthesis(step: Mapping[str, Any]) -> bool:
    return bool(step.get("kind") == "synthesis")


def _is_review(step: Mapping[str, Any]) -> bool:
    return bool(step["kind"] == "review")
