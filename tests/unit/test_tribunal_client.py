"""Tribunals over a handle: what is called, what is raised, and what leaving does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import aclosing
from typing import Any, Self

import pytest
from ray import serve
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from deployments.errors import (
    BadRequest,
    EngineFailed,
    NotReady,
    Overloaded,
    ServingError,
    Unavailable,
    UnknownModel,
    UnknownRun,
)
from deployments.principal import ANYBODY, Principal
from deployments.tribunal.client import TribunalClient
from deployments.tribunal.config import TribunalSpec
from deployments.tribunal.service import TribunalAsk
from tests.unit.tribunal_fakes import spec_of

ASK = TribunalAsk(({"role": "user", "content": "where?"},))


class Answer:
    """What a method of a handle returns: to be awaited, or to be iterated. It tells, and then ends, fails or hangs."""

    def __init__(self, *told: Any, fails: Exception | None = None, hangs: bool = False) -> None:
        self._told, self._fails, self._hangs = told, fails, hangs
        self.reached = asyncio.Event()
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        return self._end().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        for each in self._told:
            yield each
        await self._end()

    async def _end(self) -> Any:
        self.reached.set()
        if self._hangs:
            await asyncio.Event().wait()
        if self._fails:
            raise self._fails
        return self._told[0] if self._told else None

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A DeploymentHandle with one answer to all. calls: (streamed, method, arguments)."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.calls = answer, list[tuple[Any, ...]]()
        self._stream, self._method = False, ""

    def options(self, *, stream: bool) -> Handle:
        self._stream = stream
        return self

    def __getattr__(self, method: str) -> Self:
        self._method = method
        return self

    def remote(self, *arguments: Any) -> Answer:
        principal, method, *rest = arguments
        assert Principal.from_json(principal) == ANYBODY
        assert self._method == ("corral_streamed" if self._stream else "corral_called")
        self.calls.append((self._stream, method, *rest))
        self._stream = False
        return self.answer


def over(monkeypatch: pytest.MonkeyPatch, answer: Answer, **specs: TribunalSpec) -> tuple[TribunalClient, Handle]:
    """A client whose deployment `panel` is a handle of this answer."""
    handle = Handle(answer)
    monkeypatch.setattr(
        serve, "get_deployment_handle", lambda name, app_name: {("panel", "panel"): handle}[name, app_name]
    )
    return TribunalClient(specs, "panel"), handle


async def told(envelopes: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [envelope async for envelope in envelopes]


async def test_every_method_is_the_deployment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    client, handle = over(monkeypatch, Answer({"seq": 1}))
    assert await client.run(ASK) == {"seq": 1}
    assert await told(client.events(ASK)) == await told(client.resume("tri-1", 4)) == [{"seq": 1}]
    await client.cancel("tri-1")
    await client.missing("wise")
    assert handle.calls == [
        (False, "run", ASK),
        (True, "events", ASK),
        (True, "resume", "tri-1", 4),
        (False, "cancel", "tri-1"),
        (False, "missing", "wise"),
    ]


def test_names_and_specs_are_the_profile_s_and_need_no_deployment() -> None:
    client = TribunalClient({"wise": spec_of(), "default": spec_of(rounds=2)}, "panel")
    assert client.names == ("default", "wise")
    assert client.spec("default") == spec_of(rounds=2).model_dump(mode="json")


def of_the_replica(error: Exception) -> Exception:
    """The error as Ray gives it to the caller."""
    found: Exception = RayTaskError("run", "a traceback", error).as_instanceof_cause()
    return found


@pytest.mark.parametrize(
    ("raised", "seen", "words"),
    [
        (of_the_replica(UnknownRun("tri-1")), UnknownRun, "There is no tribunal run 'tri-1'"),
        (of_the_replica(UnknownModel("x", ("a", "b"))), UnknownModel, "Models here: a, b."),
        (of_the_replica(NotReady("away", "config.chair")), NotReady, "away"),
        (BadRequest("no", "seed"), BadRequest, "no"),
        (BackPressureError(9, 8), Overloaded, "The tribunal: the queue is full."),
        (DeploymentUnavailableError(DeploymentID("panel", "panel")), Unavailable, "The tribunal does not answer"),
        (ActorDiedError(), EngineFailed, "The tribunal broke off while answering; the request can be sent again."),
        (RequestCancelledError("r"), EngineFailed, "The tribunal broke off"),
        (of_the_replica(KeyError("secret")), EngineFailed, "The tribunal failed: KeyError."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_whatever_fails_is_one_of_our_errors(
    raised: Exception, seen: type[ServingError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = over(monkeypatch, Answer(fails=raised))
    with pytest.raises(ServingError) as once:
        await client.run(ASK)
    with pytest.raises(ServingError) as streamed:
        await told(client.events(ASK))
    for failure in (once.value, streamed.value):
        assert type(failure) is seen
        assert words in failure.message
        assert not {"traceback", "secret"} & set(failure.message.split())


async def test_a_refusal_keeps_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = over(monkeypatch, Answer(fails=of_the_replica(NotReady("away", "config.chair"))))
    with pytest.raises(NotReady) as refused:
        await client.run(ASK)
    assert refused.value.param == "config.chair"


async def test_what_was_told_before_a_failure_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = over(monkeypatch, Answer({"seq": 1}, fails=ActorDiedError()))
    events = client.events(ASK)
    assert await anext(events) == {"seq": 1}
    with pytest.raises(EngineFailed):
        await anext(events)


async def test_whoever_stops_waiting_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer(hangs=True)
    client, _ = over(monkeypatch, answer)
    waiting = asyncio.create_task(client.run(ASK))
    await answer.reached.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert answer.cancelled


async def test_whoever_stops_listening_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer({"seq": 1}, hangs=True)
    client, _ = over(monkeypatch, answer)
    events: Any = client.events(ASK)
    async with aclosing(events) as listening:
        assert await anext(listening) == {"seq": 1}
        assert not answer.cancelled
    assert answer.cancelled


async def test_without_a_deployment_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, app_name: str) -> None:
        raise RuntimeError(f"no {name} in {app_name}")

    monkeypatch.setattr(serve, "get_deployment_handle", refuse)
    client = TribunalClient({}, "panel")
    with pytest.raises(Unavailable, match="No tribunal is deployed here") as once:
        await client.run(ASK)
    with pytest.raises(Unavailable):
        await told(client.events(ASK))
    assert once.value.state == "stopped"
