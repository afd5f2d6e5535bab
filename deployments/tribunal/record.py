"""What came of one call: its Step in the trace, and the event that tells of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from deployments.chat import ChatReply, Usage
from deployments.errors import BadRequest, Overloaded, ServingError
from deployments.tribunal.events import EventType
from deployments.tribunal.result import Step, usage_json
from deployments.tribunal.terms import Call, Said

if TYPE_CHECKING:
    from deployments.tribunal.session import Session

T = TypeVar("T")


class Record(Generic[T]):
    """Makes one call's Step of what came of it."""

    def __init__(self, session: Session, call: Call[T], number: int, started_s: float) -> None:
        self._session, self._call, self.number, self._started_s = session, call, number, started_s
        self._text, self._usage, self._retried = "", Usage(), False

    @property
    def usage(self) -> Usage:
        return self._usage

    def add(self, reply: ChatReply, *, retried: bool) -> None:
        self._text, self._retried = reply.text, retried
        self.took(reply.usage)

    def took(self, more: Usage) -> None:
        """Tokens of an attempt; of one that broke off, an estimate."""
        self._usage = Usage(
            self._usage.prompt_tokens + more.prompt_tokens, self._usage.completion_tokens + more.completion_tokens
        )

    def heard(self, said: Said[T]) -> Said[T]:
        scores = said.value if self._call.kind == "review" else None
        step = self._step(scores=scores if isinstance(scores, dict) else None)
        told = {**self._told(step), **({"text": step.text} if step.kind != "review" else {"scores": step.scores})}
        self._session.emit(EventType.REVIEW_DONE if step.kind == "review" else EventType.DRAFT_DONE, told)
        return said

    def abstained(self) -> None:
        self._left_out(None)

    def failed(self, error: ServingError) -> None:
        """A full queue, or a question that the model refuses, is no reason to ask it no more; but who drafts nothing
        is missed.
        """
        self._session.failures.append(error)
        if self._call.kind != "draft" and isinstance(error, Overloaded | BadRequest):
            self._left_out(error.message)
            return
        self._step(failed=error.message)
        self._session.leave(self._call, self.number, error.message)

    def unpaid(self) -> None:
        self._left_out("the budget does not pay for it")
        self._session.stop("budget", f"{self._session.terms.spec.stop.budget_tokens} tokens do not pay for more")

    def cancelled(self) -> None:
        self._step(failed="cancelled")

    def _left_out(self, reason: str | None) -> None:
        """A step without a result that is no absence."""
        step = self._step(abstained=True, failed=reason)
        done = EventType.REVIEW_DONE if step.kind == "review" else EventType.DRAFT_DONE
        self._session.emit(done, {**self._told(step), "abstained": True, **({"failed": reason} if reason else {})})

    def _step(self, **more: Any) -> Step:
        session, call = self._session, self._call
        step = Step(
            self.number, call.kind, session.round, call.name, call.member.model, self._started_s,
            session.seconds - self._started_s, self._text, self._usage, retried=self._retried, **more,
        )  # fmt: skip
        session.steps.append(step)
        return step

    def _told(self, step: Step) -> dict[str, Any]:
        return {
            "step": step.step, "kind": step.kind, "round": step.round, "member": step.member, "model": step.model,
            "usage": usage_json(step.usage), "seconds": round(step.seconds, 4),
        }  # fmt: skip
