"""A tribunal in lines of text: each thing as it is finished, and the summary at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.show import aligned
from app.tribunal.deliberation import clean
from deployments.tribunal.events import EventType
from deployments.tribunal.trace_text import VERBS, scores_text

DOING = {
    "draft": "drafting", "review": "reviewing", "critique": "criticising", "revision": "revising",
    "synthesis": "writing the answer",
}  # fmt: skip
DONE = {**VERBS, "synthesis": "wrote the answer"}
LONGEST = 160
"""Characters of a text where it stands on a line with other things."""


def verbs(kind: str) -> tuple[str, str]:
    """What the member of such a call does, and has done."""
    return DOING.get(kind, kind), DONE.get(kind, kind)


def line(envelope: Mapping[str, Any]) -> str | None:
    """What a clean envelope says is finished, or None."""
    match envelope["type"]:
        case EventType.DRAFT_DONE | EventType.REVIEW_DONE:
            return _finished(envelope)
        case EventType.MEMBER_ABSENT:
            return f"{envelope['member']} was absent: {one_line(envelope['reason'])}"
        case EventType.ROUND_DONE:
            return f"round {envelope['round']}: {ranking(envelope['ranking'])}"
        case EventType.STOP_REASON:
            return f"stopped: {reason(envelope['reason'], envelope.get('detail'))}"
    return None


def _finished(envelope: Mapping[str, Any]) -> str:
    kind = envelope.get("kind", "review" if envelope["type"] == EventType.REVIEW_DONE else "draft")
    if envelope.get("abstained"):
        why = f": {envelope['failed']}" if envelope.get("failed") else ""
        return f"{envelope['member']} abstained from {verbs(kind)[0]}{why}"
    said = "; ".join(given(envelope.get("scores") or {})) or envelope.get("text", "")
    done = f"{envelope['member']} {verbs(kind)[1]} in {envelope['seconds']:.1f} s"
    return f"{done}: {one_line(said)}" if said and kind != "synthesis" else done


def one_line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1].rstrip()}…"


def given(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One text for each draft that a review scored."""
    return [f"{member} {scores_text(criteria)}" for member, criteria in scores.items()]


def ranking(ranked: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{each['rank']}. {' and '.join(each['members'])} {each['points']:.2f}" for each in ranked)


def reason(word: str, detail: str | None) -> str:
    return f"{word} ({one_line(detail)})" if detail else word


def summary(result: Mapping[str, Any]) -> str:
    """How the answer came about and what it cost, in aligned lines. result: result.Result.to_json()."""
    told = clean(result)
    stopped = told.get("stopped") or {}
    rows = [
        ("ranking", ranking(told["ranking"])),
        ("chosen by", told["chosen_by"]),
        ("stopped", reason(stopped.get("reason", ""), stopped.get("detail"))),
        ("dissent", "; ".join(_dissent(each) for each in told["dissent"])),
        ("absent", "; ".join(reason(each["member"], each["reason"]) for each in told["absent"])),
        ("abstained", ", ".join(dict.fromkeys(each["member"] for each in told["abstained"]))),
        ("cost", _cost(told)),
    ]
    return aligned([row for row in rows if row[1]])


def _dissent(dissent: Mapping[str, Any]) -> str:
    """A draft that says something else, or a reviewer that put another first."""
    if "reviewer" in dissent:
        return f"{dissent['reviewer']} preferred {' and '.join(dissent['preferred'])}"
    return f"{' and '.join(dissent['members'])} said: {one_line(dissent['text'])}"


def _cost(result: Mapping[str, Any]) -> str:
    cost = result["cost"]
    spent = f"{cost['tokens']} tokens in {result['usage']['calls']} calls, {result['seconds']:.1f} s"
    if not cost["single"]:
        return spent
    return f"{spent}; {cost['times_tokens']:.1f} times what asking {cost['single']['model']} once took"
