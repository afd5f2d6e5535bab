"""A panel of fake models that draft, review, criticise and mend as they are told to, and sittings held over it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from deployments.chat import ChatDelta, ChatModel, ChatReply, ChatRequest
from deployments.errors import UnknownModel
from deployments.pocket import NOT_SUPPORTED, SUPPORTED
from deployments.status import ModelState, ModelStatus
from deployments.tribunal.admission import Admission
from deployments.tribunal.budget import TokenRates
from deployments.tribunal.config import TribunalSpec
from deployments.tribunal.events import EventType
from deployments.tribunal.result import Result, Step
from deployments.tribunal.runs import LocalTribunals
from deployments.tribunal.service import TribunalAsk
from deployments.tribunal.terms import Terms
from deployments.tribunal.tribunal import hold, wording_of
from tests.unit.fakes import FakeModel

QUESTION = ({"role": "user", "content": "Where do the llamas of this house live?"},)
KEEP = {"faults": [], "verdict": "keep"}
_QUOTED = re.compile(r"<(draft-[A-Z]+)>\n(.*?)\n</\1>", re.DOTALL)

CONTEXT = 1 << 20
"""Of every model here, in tokens."""


def kind_of(request: ChatRequest) -> str:
    """Which step of the DAG a request is of: draft, review, critique, revise, reconsider, synthesis or mend."""
    if "structured_outputs" in request.params:
        return "mend"
    if "response_format" in request.params:
        return str(request.params["response_format"]["json_schema"]["name"])
    content = str(request.messages[-1]["content"])
    marks = {"You chair a panel": "synthesis", "Others answered": "reconsider", "Reviewers say": "revise"}
    return next((kind for mark, kind in marks.items() if mark in content), "draft")


def shown_in(request: ChatRequest) -> list[str]:
    """The drafts that a reviewer sees, in their order."""
    return [text for _, text in _QUOTED.findall(str(request.messages[-1]["content"]))]


@dataclass
class Voice:
    """What one model says.

    draft, reconsidered: one text, or one for each time it is asked, the last of them from then on.
    scores: what it gives a draft by its text. mends: the same for the embedded models' sentences.
    raw:    kind -> texts to answer with instead, one for each time; None is the ordinary answer.
    fails:  kind -> the exception that it ends with; "*" is any kind.
    holds:  kinds that wait for the panel's `step`; "*" is any kind.
    """

    draft: str | Sequence[str] = "in the corral"
    reconsidered: str | Sequence[str] | None = None
    revision: str = "in the corral, revised"
    synthesis: str = "the synthesis"
    scores: Callable[[str], int] = lambda _: 3
    critique: Mapping[str, Any] | Sequence[Mapping[str, Any]] = field(default_factory=lambda: KEEP)
    mends: Callable[[str], str] = lambda text: text
    raw: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    fails: Mapping[str, Exception] = field(default_factory=dict)
    holds: frozenset[str] = frozenset()
    asked: dict[str, int] = field(default_factory=dict)

    def answer(self, request: ChatRequest) -> str:
        """Cut to the request's max_tokens, a word being a token."""
        kind = kind_of(request)
        self.asked[kind] = self.asked.get(kind, 0) + 1
        raw = _nth(self.raw.get(kind, [None]), self.asked[kind]) if kind in self.raw else None
        text = self._ordinary(kind, request) if raw is None else raw
        return " ".join(text.split(" ")[: request.params.get("max_tokens")])

    def _ordinary(self, kind: str, request: ChatRequest) -> str:
        match kind:
            case "review":
                return json.dumps(self._reviewed(request))
            case "critique":
                many = [self.critique] if isinstance(self.critique, Mapping) else self.critique
                return json.dumps(_nth(many, self.asked[kind]))
            case "mend":
                return self._mended(str(request.messages[-1]["content"]).rpartition("Draft: ")[2])
            case "reconsider":
                again = self.draft if self.reconsidered is None else self.reconsidered
                return again if isinstance(again, str) else _nth(again, self.asked[kind])
            case "revise":
                return self.revision
            case "synthesis":
                return self.synthesis
        return self.draft if isinstance(self.draft, str) else _nth(self.draft, self.asked[kind])

    def _reviewed(self, request: ChatRequest) -> dict[str, Any]:
        schema = request.params["response_format"]["json_schema"]["schema"]["properties"]
        drafts = dict(_QUOTED.findall(str(request.messages[-1]["content"])))
        return {
            label: {name: "so so" if name == "note" else self.scores(drafts[label]) for name in of_one["properties"]}
            for label, of_one in schema.items()
        }

    def _mended(self, text: str) -> str:
        mended = self.mends(text)
        return f"{mended} {SUPPORTED if mended == text else NOT_SUPPORTED}"

    def failure(self, request: ChatRequest) -> Exception | None:
        return self.fails.get(kind_of(request)) or self.fails.get("*")


def _nth(many: Sequence[Any], number: int) -> Any:
    return many[min(number, len(many)) - 1]


class Speaker:
    """A ChatModel of one voice. spent: tokens of all that it answered. log: (kind, model id) as requests come."""

    def __init__(self, model_id: str, voice: Voice, step: asyncio.Semaphore, log: list[tuple[str, str]]) -> None:
        self.model_id, self.voice, self.spent, self._log = model_id, voice, 0, log
        self.free = FakeModel(model_id, voice.answer, fails=voice.failure)
        self.held = FakeModel(model_id, voice.answer, fails=voice.failure, step=step)

    async def chat(self, request: ChatRequest) -> ChatReply:
        reply = await self._one(request).chat(request)
        self.spent += reply.usage.total_tokens
        return reply

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        stream: Any = self._one(request).stream(request)
        async with aclosing(stream) as deltas:
            async for delta in deltas:
                self.spent += delta.usage.total_tokens if delta.usage else 0
                yield delta

    def _one(self, request: ChatRequest) -> FakeModel:
        self._log.append((kind_of(request), self.model_id))
        return self.held if self.voice.holds & {kind_of(request), "*"} else self.free


class Panel:
    """Speakers by model id. step: held kinds wait for a release of it."""

    def __init__(self, **voices: Voice) -> None:
        self.step = asyncio.Semaphore(0)
        self.log: list[tuple[str, str]] = []
        self.speakers = {name: Speaker(name, voice, self.step, self.log) for name, voice in voices.items()}
        self.virtual: dict[str, ChatModel] = {}
        self.states: dict[str, ModelStatus | Exception] = {}

    @property
    def fakes(self) -> list[FakeModel]:
        return [fake for speaker in self.speakers.values() for fake in (speaker.free, speaker.held)]

    @property
    def running(self) -> int:
        return sum(fake.running for fake in self.fakes)

    @property
    def cancelled(self) -> int:
        return sum(fake.cancelled for fake in self.fakes)

    @property
    def spent(self) -> int:
        return sum(speaker.spent for speaker in self.speakers.values())

    def requests(self, kind: str, model: str | None = None) -> list[ChatRequest]:
        """What was asked of one model, or of all, a model after the other."""
        asked = [fake for fake in self.fakes if model in (None, fake.model_id)]
        return [request for fake in asked for request in fake.requests if kind_of(request) == kind]

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.log]

    async def find(self, model: str) -> ChatModel:
        if model in self.virtual:
            return self.virtual[model]
        if model not in self.speakers:
            raise UnknownModel(model, tuple(self.speakers))
        return self.speakers[model]

    async def status(self, model: str) -> ModelStatus:
        state = self.states.get(model, ModelStatus(model, ModelState.READY))
        if isinstance(state, Exception):
            raise state
        return state


def trio(**more: Any) -> Panel:
    """Three who say different things and like what a says best."""
    likes = {"the stable": 5, "the meadow": 3, "the barn": 1}
    said = zip("abc", likes, repeat(more), strict=False)
    return Panel(**{name: Voice(draft, scores=lambda text: likes.get(text, 2), **how) for name, draft, how in said})


@dataclass(frozen=True)
class Sitting:
    """A result and the events on the way to it."""

    result: Result
    events: list[tuple[EventType, dict[str, Any]]]

    def told(self, kind: EventType) -> list[dict[str, Any]]:
        return [data for each, data in self.events if each is kind]

    @property
    def reason(self) -> str:
        return self.result.stopped["reason"]

    def steps(self, kind: str) -> list[Step]:
        return [step for step in self.result.trace if step.kind == kind]


def spec_of(**config: Any) -> TribunalSpec:
    return TribunalSpec.model_validate({"members": ["a", "b", "c"], **config})


async def no_sleep(_: float) -> None:
    await asyncio.sleep(0)


def terms_of(panel: Panel, spec: TribunalSpec, **more: Any) -> Terms:
    question = more.pop("question", QUESTION)
    return Terms(question, spec, wording_of(spec), panel.find, TokenRates(), **{"seed": 1, "sleep": no_sleep, **more})


async def sitting(panel: Panel, absent: dict[str, str] | None = None, *, terms: Any = None, **config: Any) -> Sitting:
    """Hold one. terms: further fields of Terms."""
    events: list[tuple[EventType, dict[str, Any]]] = []
    asked = terms_of(panel, spec_of(**config), **(terms or {}))
    return Sitting(await hold("run", "test", asked, lambda *event: events.append(event), absent), events)


def admission_over(panel: Panel, **specs: Mapping[str, Any]) -> Admission:
    """specs: the profile's tribunals; without any, one named default of all models."""
    named = specs or {"default": {"members": list(panel.speakers)}}
    found = {name: TribunalSpec.model_validate(spec) for name, spec in named.items()}
    return Admission(found, dict.fromkeys(panel.speakers, CONTEXT), panel.find, panel.status)


def tribunals_over(
    panel: Panel, specs: Mapping[str, Mapping[str, Any]] | None = None, **keeping: Any
) -> LocalTribunals:
    return LocalTribunals(admission_over(panel, **(specs or {})), **keeping)


def asked(**more: Any) -> TribunalAsk:
    return TribunalAsk(**{"messages": QUESTION, "seed": 1, **more})
