"""One sitting of a tribunal: asks models in parallel, keeps its budget, notes who was absent, tells what happens.

The deadline is not here: whoever runs the sitting cancels it, and what was drafted until then stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from math import inf
from typing import Any, TypeVar

from deployments.chat import ChatReply, ChatRequest, Usage
from deployments.errors import BadRequest, DeadlineExceeded, EngineFailed, NoQuorum, Overloaded, ServingError
from deployments.tracing import MODEL, TRACES, Attributes, tokens
from deployments.tribunal.budget import LEAST_ANSWER, Budget, OutOfBudget
from deployments.tribunal.config import Member, tribunal_name
from deployments.tribunal.events import EventType
from deployments.tribunal.record import Record
from deployments.tribunal.result import Absence, Kind, Step
from deployments.tribunal.terms import Call, Emit, Said, Terms
from deployments.tribunal.wording import Unparsed

T = TypeVar("T")
AT_ONCE = 32
"""Calls of one sitting that are with the engines at the same time."""
CALLS = 1000
"""Most calls of one sitting."""
CUT_SHORT = frozenset({"budget", "deadline", "calls"})
BUSY_S = (0.25, 0.5, 1.0)
"""Seconds between the attempts at a model whose queue is full."""
SPOKEN: frozenset[Kind] = frozenset({"draft", "critique", "revision", "synthesis"})


@dataclass
class Session:
    """State of one sitting. Everything that is said or fails becomes a Step and an event."""

    terms: Terms
    emit: Emit
    budget: Budget = field(init=False)
    steps: list[Step] = field(default_factory=list)
    absent: dict[str, Absence] = field(default_factory=dict)
    failures: list[ServingError] = field(default_factory=list)
    stopped: dict[str, str] = field(default_factory=dict)
    round: int = 0
    _count: int = 0
    _began: float = field(init=False)
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    def __post_init__(self) -> None:
        self.budget = Budget(self.terms.spec.stop.budget_tokens)
        self._began = self.terms.clock()

    @property
    def seconds(self) -> float:
        """Since the sitting began."""
        return self.terms.clock() - self._began

    def max_tokens_of(self, member: Member) -> int:
        """Of a draft, within what the person allowed."""
        bound = self.terms.spec.max_tokens_of(member)
        return min(bound, self.terms.max_tokens or bound)

    def present(self, members: Sequence[Member]) -> list[Member]:
        return [member for member in members if member.label not in self.absent]

    def stop(self, reason: str, detail: str) -> None:
        """Deliberate no longer. The first reason counts, but for one that cuts short what was still to be done."""
        if not self.stopped or (reason in CUT_SHORT and self.stopped["reason"] not in CUT_SHORT):
            self.stopped = {"reason": reason, "detail": detail}
            self.emit(EventType.STOP_REASON, self.stopped)

    def miss(self, member: Member, reason: str) -> None:
        """A member that does not answer is not asked at all."""
        self._away(member, Absence(member.label, member.model, 0, reason))

    async def one(self, call: Call[T]) -> Said[T] | None:
        """The answer of one call, alone."""
        return (await self.all([call]))[0]

    async def all(self, calls: Sequence[Call[T]], keep: float = 0) -> list[Said[T] | None]:
        """The answers of all calls, in their order; None of who failed, abstained or was not paid for."""
        found: list[Said[T] | None] = [None] * len(calls)
        async with aclosing(self.as_they_come(calls, keep)) as coming:
            async for index, said in coming:
                found[index] = said
        return found

    async def as_they_come(
        self, calls: Sequence[Call[T]], keep: float = 0, patience: Callable[[int], float | None] = lambda _: None
    ) -> AsyncGenerator[tuple[int, Said[T] | None], None]:
        """(index, answer) of each call as it comes; closing it cancels the others.

        keep: share of the budget that is left for later. patience: how many have answered -> seconds that the
        others get from when it first is not None. Who is cancelled for being late is absent.
        """
        share = self.budget.share(len(calls), keep)
        if self._count + len(calls) > CALLS:
            self.stop("calls", f"a sitting has at most {CALLS} calls")
            return
        numbers = range(self._count + 1, self._count + 1 + len(calls))
        self._count += len(calls)
        asked = [self._ask(call, number, share) for call, number in zip(calls, numbers, strict=True)]
        tasks = {asyncio.create_task(each): index for index, each in enumerate(asked)}
        waiting, answered, until = set(tasks), 0, inf
        now = asyncio.get_running_loop().time
        try:
            while waiting:
                if until == inf and (late := patience(answered)) is not None:
                    until = now() + late
                left = None if until == inf else max(0, until - now())
                done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    late_ones = sorted(tasks[task] for task in waiting)
                    self._give_up([(calls[index], numbers[index]) for index in late_ones])
                    return
                for task in sorted(done, key=tasks.__getitem__):
                    answered += task.result() is not None
                    yield tasks[task], task.result()
        finally:
            await _cancelled(tasks)

    def _give_up(self, late: Sequence[tuple[Call[Any], int]]) -> None:
        for call, number in late:
            self.leave(call, number, "it was later than patience_s after the quorum")

    async def _ask(self, call: Call[T], number: int, share: int | None) -> Said[T] | None:
        said: Attributes = {MODEL: call.member.model, "corral.step": number, "corral.round": self.round}
        with TRACES.span(f"tribunal {call.kind}", said) as span:
            record = Record(self, call, number, self.seconds)
            try:
                return await self._asked(call, number, share, record)
            finally:
                span.say(tokens(record.usage))

    async def _asked(self, call: Call[T], number: int, share: int | None, record: Record[T]) -> Said[T] | None:
        """Ask, and once more if the answer is not of the form asked for."""
        told = {"step": number, "kind": call.kind, "round": self.round, "member": call.name, "model": call.member.model}
        self.emit(EventType.STEP_STARTED, told)
        for attempt in (0, 1):
            try:
                reply = await self._reply(call, record, attempt, share)
                record.add(reply, retried=attempt > 0)
                return record.heard(Said(call.prompt.parse(reply.text), call.member, number, reply.finish_reason))
            except Unparsed:
                continue
            except OutOfBudget:
                record.unpaid()
                return None
            except ServingError as error:
                if _pays_too_little(call, error):
                    record.unpaid()
                else:
                    record.failed(error)
                return None
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) and task.cancelling():
                    record.cancelled()
                    raise
                record.failed(EngineFailed("it broke off"))
                return None
        record.abstained()
        return None

    def _fitting(self, call: Call[T], prompt: int) -> int:
        """Tokens of an answer that fit the model's context; where hardly any do, its engine is to say so."""
        room = self.terms.contexts.get(call.member.model, prompt + call.max_tokens) - prompt
        return min(call.max_tokens, room) if room >= LEAST_ANSWER else call.max_tokens

    async def _reply(self, call: Call[T], record: Record[T], attempt: int, share: int | None) -> ChatReply:
        model, messages = call.member.model, call.prompt.messages
        estimate = self.terms.rates.estimate(model, messages)
        if call.kind == "draft" and share is not None and share < estimate + min(call.max_tokens, LEAST_ANSWER):
            share = None  # one draft for all that is left is better than none
        granted = self.budget.reserve(estimate, self._wanted(call, estimate), share)
        way, took = _Attempt(), Usage()
        try:
            request = self._request(call, granted, record.number, attempt)
            reply = await self._in_turn(call, request, record.number, way)
            took = reply.usage
            if tribunal_name(model) is None:  # a tribunal counts the prompts of all its calls
                self.terms.rates.learn(model, messages, took.prompt_tokens)
            return reply
        except (asyncio.CancelledError, EngineFailed, DeadlineExceeded, NoQuorum):
            took = Usage(estimate if way.sent else 0, len(way.pieces))
            record.took(took)
            raise
        finally:
            self.budget.settle(estimate + granted, took.total_tokens)

    def _wanted(self, call: Call[T], prompt: int) -> int:
        """Tokens of the answer: of a tribunal that is a member, all that its calls may take."""
        if self.budget.limit is not None and tribunal_name(call.member.model) is not None:
            return self.budget.limit
        return self._fitting(call, prompt)

    async def _in_turn(self, call: Call[T], request: ChatRequest, number: int, way: _Attempt) -> ChatReply:
        """A full queue is waited out for a moment: it may be this sitting's own reviews that fill it."""
        async with self._gate:
            for wait_s in (*BUSY_S, None):
                try:
                    way.sent = True
                    return await self._answer(call, request, number, way.pieces)
                except Overloaded:
                    way.sent = False
                    if wait_s is None:
                        raise
                    await self.terms.sleep(wait_s)
        raise AssertionError("unreachable")

    def _request(self, call: Call[T], max_tokens: int, number: int, attempt: int) -> ChatRequest:
        terms = self.terms
        params: dict[str, Any] = {"max_tokens": max_tokens, **self._seed(number, attempt)}
        if tribunal_name(call.member.model) is not None:  # it has temperatures and schemas of its own
            budget = {} if self.budget.limit is None else {"budget_tokens": max_tokens}
            inner = {**params, "max_tokens": call.max_tokens, **budget}
            return ChatRequest(call.prompt.messages, inner, terms.priority)
        params |= call.prompt.params
        drafting = call.kind in ("draft", "revision")
        params["temperature"] = terms.spec.temperature_of(call.member) if drafting else call.member.temperature or 0.0
        if attempt and not params["temperature"]:
            params["temperature"] = 0.5  # the same words would come again
        return ChatRequest(call.prompt.messages, params, terms.priority)

    def _seed(self, number: int, attempt: int) -> dict[str, int]:
        seed = self.terms.seed
        return {} if seed is None else {"seed": (seed + 1009 * number + attempt) % (1 << 31)}

    async def _answer(self, call: Call[T], request: ChatRequest, number: int, pieces: list[str]) -> ChatReply:
        """pieces: gets what comes, as it comes."""
        model = await self.terms.models(call.member.model)
        if not self._streamed(call):
            return await model.chat(request)
        usage, finish_reason, held = Usage(), None, ""
        stream: Any = model.stream(request)
        async with aclosing(stream) as deltas:
            async for delta in deltas:
                finish_reason, usage = delta.finish_reason or finish_reason, delta.usage or usage
                if delta.text:
                    pieces.append(delta.text)
                    held += delta.text
                if held.strip():  # white space alone is no answer yet
                    self._piece(call, number, held)
                    held = ""
        if finish_reason is None:
            raise EngineFailed(f"{call.member.model} broke off while answering.")
        return ChatReply("".join(pieces), call.member.model, finish_reason, usage)

    def _streamed(self, call: Call[T]) -> bool:
        """A tribunal that is a member is not: it may take back what it said."""
        if not self.terms.deltas or call.kind not in SPOKEN or tribunal_name(call.member.model) is not None:
            return False
        return call.kind != "synthesis" or self.terms.wording.answers_as_said

    def _piece(self, call: Call[T], number: int, text: str) -> None:
        if call.kind == "synthesis":
            self.emit(EventType.ANSWER_DELTA, {"text": text})
        else:
            self.emit(EventType.DRAFT_DELTA, {"step": number, "member": call.name, "text": text})

    def leave(self, call: Call[Any], number: int, reason: str) -> None:
        """The member is asked no more in this sitting."""
        self._away(call.member, Absence(call.name, call.member.model, number, reason))

    def _away(self, member: Member, absence: Absence) -> None:
        """One lost sample of a member that gives many is not the member's absence."""
        sample = absence.member != member.label
        key = absence.member if sample else member.label
        if key not in self.absent:
            self.absent[key] = absence
            self.emit(EventType.MEMBER_ABSENT, vars(absence))


@dataclass
class _Attempt:
    """How far one request has come: whether it was sent, and what was heard."""

    sent: bool = False
    pieces: list[str] = field(default_factory=list)


async def _cancelled(tasks: Any) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _pays_too_little(call: Call[Any], error: ServingError) -> bool:
    """Whether a tribunal that is a member finds its part of the budget too small."""
    return tribunal_name(call.member.model) is not None and getattr(error, "param", None) == "budget_tokens"


def first_refusal(failures: Sequence[ServingError]) -> ServingError | None:
    """The one fault behind all failures, where it is the question's: nobody could have answered it."""
    if failures and all(isinstance(failure, BadRequest) for failure in failures):
        return failures[0]
    return None
