"""A tribunal as its envelopes tell it, and a service that streams them as often as it is asked, or breaks off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.talk import Talk
from deployments.chat import Usage
from deployments.tribunal.events import Event, EventType
from deployments.tribunal.result import Absence, Ranked, Result, Step

Told = tuple[EventType, dict[str, Any]]

RUN = "tri-1"
SMALL, LARGE, GONE = "pocket-3b", "pocket-70b", "pocket-1b"
NASTY = "[red]bold[/red] \x1b[31m:smile:\u202e\x9b2J"
"""What a model might say to do harm on a terminal."""
HARMLESS = "[red]bold[/red] [31m:smile:2J"
DISSENT: tuple[dict[str, Any], ...] = (
    {"members": [SMALL, "pocket-8b"], "text": "Look it up.", "points": 0.25},
    {"reviewer": GONE, "preferred": [SMALL, "pocket-8b"]},
)


def usage(completion: int) -> dict[str, int]:
    return {"prompt_tokens": 10, "completion_tokens": completion, "total_tokens": 10 + completion}


def started(step: int, member: str, kind: str = "draft", number: int = 0) -> Told:
    return EventType.STEP_STARTED, {"step": step, "kind": kind, "round": number, "member": member, "model": member}


def drafted(step: int, member: str, text: str, **more: Any) -> Told:
    told = {"step": step, "kind": "draft", "round": 0, "member": member, "model": member, "text": text}
    return EventType.DRAFT_DONE, {**told, "usage": usage(24), "seconds": 0.21, **more}


def reviewed(step: int, member: str, scores: Any = None) -> Told:
    told = {"step": step, "kind": "review", "round": 1, "member": member, "model": member, "usage": usage(9)}
    return EventType.REVIEW_DONE, {**told, "seconds": 0.3, **({"scores": scores} if scores else {"abstained": True})}


def absent(step: int, member: str, reason: str) -> Told:
    return EventType.MEMBER_ABSENT, {"step": step, "member": member, "model": member, "reason": reason}


def result(answer: str = "Ask sinfo.") -> dict[str, Any]:
    """As a service would tell it in the end."""
    ranking = (Ranked(1, (LARGE,), "Ask sinfo.", 0.75), Ranked(2, (SMALL, "pocket-8b"), "Look it up.", 0.25))
    first = Step(1, "draft", 0, LARGE, LARGE, 0, 0.2, "Ask sinfo.", Usage(40, 60))
    review = Step(4, "review", 1, SMALL, SMALL, 0, 0.2, "?", Usage(200, 40), abstained=True)
    return Result(
        RUN, "default", "council", answer, "chair", {"reason": "leader", "detail": "no review could change it"},
        ranking, DISSENT, (Absence(GONE, GONE, 3, "it failed"),), (first, review), 2.13, first,
    ).to_json()  # fmt: skip


DELIBERATION: list[Told] = [
    started(1, LARGE),
    started(2, SMALL),
    started(3, GONE),
    (EventType.DRAFT_DELTA, {"step": 1, "member": LARGE, "text": "Ask "}),
    (EventType.DRAFT_DELTA, {"step": 1, "member": LARGE, "text": "sin"}),
    drafted(1, LARGE, "Ask sinfo."),
    absent(3, GONE, "it failed"),
    drafted(2, SMALL, NASTY),
    started(4, SMALL, "review", 1),
    started(5, LARGE, "review", 1),
    reviewed(4, SMALL),
    reviewed(5, LARGE, {SMALL: {"accuracy": 4, "clarity": 7.5}}),
    (EventType.ROUND_DONE, {"round": 1, "ranking": result()["ranking"]}),
    (EventType.STOP_REASON, {"reason": "leader", "detail": "no review could change it"}),
    started(6, LARGE, "synthesis", 1),
    (EventType.ANSWER_DELTA, {"text": "Ask "}),
    (EventType.ANSWER_DELTA, {"text": "sinfo."}),
]


def envelopes(*told: Told) -> list[dict[str, Any]]:
    return [Event(RUN, number, kind, data).envelope() for number, (kind, data) in enumerate(told, 1)]


WHOLE = envelopes(*DELIBERATION, (EventType.RESULT, {"result": result()}))


def failing(message: str, kind: str) -> list[dict[str, Any]]:
    """A tribunal that ends with an error."""
    error = {"message": message, "type": kind, "param": None, "code": "x"}
    return envelopes(started(1, LARGE), (EventType.ERROR, {"error": error}))


@dataclass
class Service:
    """Streams `script`. `breaks`: for each stream in turn, how many envelopes arrive before it breaks; then all do.

    half: bytes that arrive of the envelope at a break. last_word: what comes there instead, which is no event of the
    tribunal. refuses: method -> what it answers instead, once each.
    """

    script: list[dict[str, Any]] = field(default_factory=lambda: WHOLE)
    breaks: list[int] = field(default_factory=list)
    half: int = 0
    last_word: dict[str, Any] | None = None
    refuses: dict[str, list[httpx.Response]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)

    def talk(self) -> Talk:
        return Talk(httpx.Client(transport=httpx.MockTransport(self._answer), base_url="http://corral"))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.raw_path.decode()}")
        if request.content:
            self.bodies.append(json.loads(request.content))
        if refusals := self.refuses.get(request.method):
            return refusals.pop(0)
        if request.method == "DELETE":
            return httpx.Response(204)
        after = int(request.url.params.get("after", 0))
        left = self.breaks.pop(0) if self.breaks else None
        return httpx.Response(200, content=self._stream(self.script[after:], left))

    def _stream(self, told: list[dict[str, Any]], left: int | None) -> Iterator[bytes]:
        yield b": alive\n\n"
        yield from map(sse, told[:left])
        if left is None:
            return
        if self.last_word:
            yield f"data: {json.dumps(self.last_word)}\n\n".encode()
            return
        yield sse(told[left])[: self.half]
        raise httpx.ReadError("connection reset")


def sse(envelope: dict[str, Any]) -> bytes:
    return f"id: {envelope['seq']}\ndata: {json.dumps(envelope, ensure_ascii=False)}\n\n".encode()


def refusal(status: int, message: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, "type": "x", "param": None, "code": "x"}})
