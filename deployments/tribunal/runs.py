"""LocalTribunals: runs tribunals in this process, tells what happens to whoever listens, and keeps it for a while."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from deployments.errors import BadRequest, Cancelled, Overloaded, ServingError, UnknownRun
from deployments.principal import CURRENT
from deployments.tracing import TRACES, Attributes
from deployments.tribunal.admission import Admission, Admitted
from deployments.tribunal.events import Event, EventType
from deployments.tribunal.result import Result
from deployments.tribunal.service import TribunalAsk
from deployments.tribunal.telemetry import Observer, TribunalTelemetry
from deployments.tribunal.tribunal import hold, tell_answer

log = logging.getLogger("corral.tribunal")
TRIBUNAL = "corral.tribunal"
"""Of a span: the tribunal's name."""
KEEP_S = 300
KEEP_CHARACTERS = 64 << 20
LIVE = 256
"""Most runs at once."""
UNHEARD = 32
"""Most of them that go on while nobody listens; one more that is left is stopped."""


class Run:
    """One run and its events. It ends when nobody has listened for `linger_s`."""

    def __init__(
        self, linger_s: float, may_linger: Callable[[], bool] = lambda: True, observe: Observer = lambda *_: None
    ) -> None:
        self.id = f"tri-{uuid.uuid4().hex}"
        self.key = CURRENT.get().key
        self.events: list[dict[str, Any]] = []
        self.result: Result | None = None
        self.error: ServingError | None = None
        self.ended_at: float | None = None
        self._linger_s, self._may_linger, self._listeners = linger_s, may_linger, 0
        self._observe = observe
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._farewell: asyncio.TimerHandle | None = None
        self._answer: list[str] = []
        self.characters = 0

    @property
    def live(self) -> bool:
        return self.ended_at is None

    @property
    def unheard(self) -> bool:
        return self.live and not self._listeners

    def start(self, admitted: Admitted, ended: Callable[[Run], None]) -> None:
        self._task = asyncio.create_task(self._hold(admitted))
        self._task.add_done_callback(lambda _: ended(self))

    async def listen(self, after: int = 0) -> AsyncGenerator[dict[str, Any], None]:
        """Envelopes with seq > after, to the last one."""
        self._listeners += 1
        if self._farewell:
            self._farewell.cancel()
        try:
            while True:
                while after < len(self.events):
                    after += 1
                    yield self.events[after - 1]
                if self.ended_at is not None:
                    return
                self._told.clear()
                await self._told.wait()
        finally:
            self._listeners -= 1
            await self._left()

    async def stop(self) -> None:
        """End it now, whoever listens."""
        if self._task and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _left(self) -> None:
        if self._listeners or self.ended_at is not None or self._task is None:
            return
        if self._linger_s and self._may_linger():
            self._farewell = asyncio.get_running_loop().call_later(self._linger_s, self._task.cancel)
        else:
            await self.stop()

    async def _hold(self, admitted: Admitted) -> None:
        try:
            with TRACES.span(f"tribunal {admitted.terms.spec.strategy}", {TRIBUNAL: admitted.name}) as span:
                result = await hold(self.id, admitted.name, admitted.terms, self._emit, admitted.absent)
                span.say(_verdict(result))
            tell_answer(self._emit, result, "".join(self._answer))
            self.result = result
            self._emit(EventType.RESULT, {"result": result.to_json()})
        except asyncio.CancelledError:
            self.error = Cancelled("The run was stopped before it had an answer.")
            self._emit(EventType.ERROR, {"error": _problem(self.error)})
        except ServingError as error:
            self.error = error
            self._emit(EventType.ERROR, {"error": _problem(error)})
        except Exception:
            log.exception("tribunal run %s failed", self.id)
            self.error = ServingError("The tribunal failed; its log has the reason.")
            self._emit(EventType.ERROR, {"error": _problem(self.error)})
        finally:
            self.ended_at = time.monotonic()
            self._told.set()

    def _emit(self, kind: EventType, data: dict[str, Any]) -> None:
        if kind is EventType.ANSWER_DELTA:
            self._answer.append(str(data["text"]))
        self.events.append(Event(self.id, len(self.events) + 1, kind, data).envelope())
        self.characters += 200 + _length(data)
        self._observe(kind, data)
        self._told.set()


def _verdict(result: Result) -> Attributes:
    """How it came to its answer, for its span."""
    stopped = str(result.stopped.get("reason", ""))
    return {"corral.chosen_by": result.chosen_by, "corral.stopped": stopped, "corral.steps": len(result.trace)}


def _length(told: Any) -> int:
    """About how many characters it holds."""
    if isinstance(told, Mapping):
        return sum(map(_length, told.values()))
    if isinstance(told, list | tuple):
        return sum(map(_length, told))
    return len(told) if isinstance(told, str) else 8


def _problem(error: ServingError) -> dict[str, Any]:
    kind = "invalid_request_error" if isinstance(error, BadRequest | Cancelled) else "server_error"
    return {"message": error.message, "type": kind, "param": getattr(error, "param", None), "code": error.reason}


class LocalTribunals:
    """Implements service.Tribunals."""

    def __init__(self, admission: Admission, keep_s: float = KEEP_S, keep_characters: int = KEEP_CHARACTERS) -> None:
        self._admission, self._keep_s, self._keep_characters = admission, keep_s, keep_characters
        self.telemetry = TribunalTelemetry()
        self._runs: dict[str, Run] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return self._admission.names

    def admit_by(self, admission: Admission) -> None:
        """Let in by other tribunals and models from now on; runs go on, and what is kept stays."""
        self._admission = admission

    async def missing(self, name: str) -> str | None:
        return await self._admission.missing(name)

    def spec(self, name: str) -> Mapping[str, Any]:
        return self._admission.spec(name)

    async def run(self, ask: TribunalAsk) -> dict[str, Any]:
        run = await self._begun(ask)
        async with aclosing(run.listen()) as told:
            async for _ in told:
                pass
        if run.error:
            raise run.error
        assert run.result is not None
        return run.result.to_json()

    async def events(self, ask: TribunalAsk) -> AsyncGenerator[dict[str, Any], None]:
        run = await self._begun(ask)
        async with aclosing(run.listen()) as told:
            async for envelope in told:
                yield envelope

    async def resume(self, run_id: str, after: int = 0) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(self._kept(run_id).listen(after)) as told:
            async for envelope in told:
                yield envelope

    async def cancel(self, run_id: str) -> None:
        await self._kept(run_id).stop()

    async def _begun(self, ask: TribunalAsk) -> Run:
        admitted = await self._admission.admit(ask)
        self._check_room()
        observe = self.telemetry.run(admitted.name)
        run = Run(ask.linger_s, lambda: sum(each.unheard for each in self._runs.values()) <= UNHEARD, observe)
        self._runs[run.id] = run
        run.start(admitted, self._ended)
        return run

    def _check_room(self) -> None:
        """Raises Overloaded."""
        if sum(run.live for run in self._runs.values()) >= LIVE:
            raise Overloaded("The tribunal has too many runs at work.", 5)

    def _ended(self, _: Run) -> None:
        self._forget()
        asyncio.get_running_loop().call_later(self._keep_s + 1, self._forget)

    def _kept(self, run_id: str) -> Run:
        self._forget()
        run = self._runs.get(run_id)
        if run is None or run.key != CURRENT.get().key:  # another key's is as unknown as none
            raise UnknownRun(run_id[:64])
        return run

    def _forget(self) -> None:
        """Drop what ended too long ago, and the oldest where there is too much."""
        now = time.monotonic()
        ended = [run for run in self._runs.values() if run.ended_at is not None]
        total = sum(run.characters for run in ended)
        for run in sorted(ended, key=lambda run: run.ended_at or 0):
            if total > self._keep_characters or now - (run.ended_at or now) > self._keep_s:
                total -= run.characters
                del self._runs[run.id]
