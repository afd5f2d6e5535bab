"""Tribunals: what is seen of them from above, whether they run in this process or behind a DeploymentHandle."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.errors import (
    BadRequest,
    Cancelled,
    DeadlineExceeded,
    EngineFailed,
    NoQuorum,
    NotReady,
    Overloaded,
    PromptTooLong,
    ServingError,
    Unavailable,
    UnknownModel,
    UnknownRun,
)
from deployments.tribunal.config import DEFAULT, virtual_id


@dataclass(frozen=True)
class TribunalAsk:
    """One question to a tribunal.

    messages: OpenAI message dicts with text, oldest first; the last one is the user's.
    tribunal: name of one of the profile's; with None and no config it is `default`.
    config:   keys of config.TribunalSpec; over the named tribunal's where one is named, else the whole spec.
    budget_tokens: bound of all calls together, where it is less than the spec's.
    max_tokens: bound of the answer and of each draft, where it is less than the spec's.
    priority: vLLM's scheduling priority of every call.
    deltas:   whether drafts are told piece by piece.
    linger_s: how long it goes on when nobody listens any more; then it is stopped.
    """

    messages: tuple[dict[str, Any], ...]
    tribunal: str | None = None
    config: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    seed: int | None = None
    priority: int = 0
    deltas: bool = False
    linger_s: float = 0
    budget_tokens: int | None = None


class Tribunals(Protocol):
    """Runs tribunals and keeps what they told for a while. Raises deployments.errors.ServingError and nothing else.

    Cancelling the awaiting task, or closing an iterator, stops the run and frees every engine, after `linger_s`.
    Envelopes are events.Event.envelope(): {"v", "id", "seq", "type", ...}; the last is of type result or error.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The profile's tribunals, `default` first where there is one."""
        ...

    def spec(self, name: str) -> Mapping[str, Any]:
        """The named tribunal's config.TribunalSpec as JSON has it."""
        ...

    async def run(self, ask: TribunalAsk) -> dict[str, Any]:
        """The result (result.Result.to_json()). What fails is raised."""
        ...

    def events(self, ask: TribunalAsk) -> AsyncIterator[dict[str, Any]]:
        """Envelopes as things happen. What is wrong with the ask is raised before the first one; a failure after it
        is the last envelope, type error: {"error": {"message", "type", "param", "code"}}."""
        ...

    def resume(self, run_id: str, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Envelopes of a run that is kept, those with seq > after, and on as they come. Raises UnknownRun."""
        ...

    async def cancel(self, run_id: str) -> None:
        """Stop a run, whoever listens. Raises UnknownRun."""
        ...

    async def missing(self, name: str) -> str | None:
        """Why the named tribunal could not sit now, for want of its chair or of members; None if it could."""
        ...


class NoTribunals:
    """Tribunals where there are none."""

    names: tuple[str, ...] = ()

    def spec(self, name: str) -> Mapping[str, Any]:
        raise _no_tribunal(name)

    async def run(self, ask: TribunalAsk) -> dict[str, Any]:
        raise _no_tribunal(ask.tribunal)

    async def events(self, ask: TribunalAsk) -> AsyncGenerator[dict[str, Any], None]:
        raise _no_tribunal(ask.tribunal)
        yield {}

    async def resume(self, run_id: str, after: int = 0) -> AsyncGenerator[dict[str, Any], None]:
        raise UnknownRun(run_id)
        yield {}

    async def cancel(self, run_id: str) -> None:
        raise UnknownRun(run_id)

    async def missing(self, name: str) -> str | None:
        raise _no_tribunal(name)


def _no_tribunal(name: str | None) -> UnknownModel:
    return UnknownModel(virtual_id(name or DEFAULT))


_WITH_PARAM: tuple[type[BadRequest | NotReady], ...] = (BadRequest, PromptTooLong, NotReady)
_PLAIN: tuple[type[ServingError], ...] = (
    ServingError, Cancelled, Unavailable, NoQuorum, Overloaded, DeadlineExceeded, EngineFailed,
)  # fmt: skip


def failure_of(error: Mapping[str, Any]) -> ServingError:
    """The failure that an envelope of type error tells of; where no class has its code, its type decides."""
    message, code = str(error["message"]), error["code"]
    for with_param in _WITH_PARAM:
        if with_param.reason == code:
            return with_param(message, error.get("param"))
    for plain in _PLAIN:
        if plain.reason == code:
            return plain(message)
    return (BadRequest if error.get("type") == "invalid_request_error" else EngineFailed)(message)
