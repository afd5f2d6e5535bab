"""/v1/tribunal: one question, several models; whole or as it happens, and taken up again after a lost connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request
from starlette.responses import JSONResponse, Response

from app.body import JSON, read_object, validate
from app.errors import Problem, problem_of
from app.services import Services
from app.streaming import ALIVE, SSE, Streamed, closing, event, with_last_word, with_silences
from app.tribunal.openapi import ASK, CANCEL, LIST, RESUME
from app.tribunal.wire import TribunalAskBody
from deployments.errors import EngineFailed
from deployments.request_log import note
from deployments.status import ModelState
from deployments.tribunal.config import DEFAULT, virtual_id
from deployments.tribunal.events import VERSION, EventType
from deployments.tribunal.service import failure_of

PATH, RUN_PATH = "/v1/tribunal", "/v1/tribunal/{run_id}"
RunId = Annotated[str, Path(max_length=128)]
After = Annotated[int, Query(ge=0, lt=1 << 53, description="The last seq that was received.")]
LastEventId = Annotated[int, Header(ge=0, lt=1 << 53, description="The same, as browsers send it.")]
Envelope = dict[str, Any]


class TribunalRoutes:
    """Tribunals over HTTP; as virtual models they are in virtual_chat.py."""

    def __init__(self, services: Services) -> None:
        self.services, self.tribunals = services, services.tribunals

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Tribunal"])
        add = router.add_api_route
        add(PATH, self.ask, methods=["POST"], **ASK)
        add(PATH, self.list, methods=["GET"], **LIST)
        add(RUN_PATH, self.resume, methods=["GET"], **RESUME)
        add(RUN_PATH, self.cancel, methods=["DELETE"], **CANCEL)
        add(PATH, self.not_allowed, methods=["PUT", "PATCH", "DELETE"], include_in_schema=False)
        add(RUN_PATH, self.not_allowed, methods=["POST", "PUT", "PATCH"], include_in_schema=False)
        return router

    async def ask(self, request: Request) -> Response:
        asked = validate(TribunalAskBody, await read_object(request))
        if (name := asked.tribunal or DEFAULT) in self.tribunals.names:
            note(model=virtual_id(name))
        if asked.stream:
            return self._streamed(self.tribunals.events(asked.to_ask()))
        return JSONResponse(await self.tribunals.run(asked.to_ask()))

    async def list(self) -> Response:
        cards = []
        for name, status in zip(self.tribunals.names, await self.services.virtual_statuses(), strict=True):
            ready = status.state is ModelState.READY
            reason = {} if ready else {"reason": status.reason or "its members did not say in time"}
            cards.append({"name": name, "model": virtual_id(name), "ready": ready, **reason,
                          "spec": dict(self.tribunals.spec(name))})  # fmt: skip
        return JSONResponse({"object": "list", "data": cards})

    async def resume(
        self, request: Request, run_id: RunId, after: After = 0, last_event_id: LastEventId = 0
    ) -> Response:
        await request.body()  # from its end on it is noticed that a client leaves
        accepted = request.headers.get("accept", "")
        if JSON in accepted and SSE not in accepted:
            return JSONResponse(await _result(self.tribunals.resume(run_id)))
        seen = max(after, last_event_id)
        return self._streamed(self.tribunals.resume(run_id, seen), resumed=True)

    async def cancel(self, run_id: RunId) -> Response:
        await self.tribunals.cancel(run_id)
        return Response(status_code=204)

    async def not_allowed(self, request: Request) -> Response:
        raise HTTPException(405, headers={"allow": "GET, POST" if request.url.path == PATH else "GET, DELETE"})

    def _streamed(self, envelopes: AsyncIterator[Envelope], *, resumed: bool = False) -> Response:
        telling = Telling(resumed)
        pieces = telling.pieces(with_silences(envelopes, self.services.limits.alive_s))
        return Streamed(with_last_word(pieces, "a tribunal", telling.broken_off), SSE)


class Telling:
    """One stream of envelopes as server-sent events. `resumed`: there may be nothing left to tell."""

    def __init__(self, resumed: bool) -> None:
        self._resumed = resumed
        self._last: Envelope = {}

    async def pieces(self, envelopes: AsyncGenerator[Envelope | None, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(envelopes):
            async for envelope in envelopes:
                if envelope is None:
                    yield ALIVE
                    continue
                self._last = envelope
                yield f"id: {envelope['seq']}\n".encode() + event(_shown(envelope))
        if not self._complete():
            raise EngineFailed("The tribunal broke off without a result.")

    def _complete(self) -> bool:
        return self._last["type"] in (EventType.RESULT, EventType.ERROR) if self._last else self._resumed

    def broken_off(self, problem: Problem) -> bytes:
        """An error from the way to here, which is no event of the run: it has no `id:` to resume after."""
        run_id, seq = self._last.get("id", ""), self._last.get("seq", 0) + 1
        return event({"v": VERSION, "id": run_id, "seq": seq, "type": EventType.ERROR, **problem.body()})


def _shown(envelope: Envelope) -> Envelope:
    """An error has OpenAI's type, which only the table of errors knows."""
    if envelope["type"] != EventType.ERROR:
        return envelope
    error = envelope["error"]
    return {**envelope, "error": {**error, "type": problem_of(failure_of(error)).type}}


async def _result(envelopes: AsyncIterator[Envelope]) -> Any:
    """The result of a run, once it is there. What it failed of is raised."""
    async with closing(envelopes) as coming:
        async for envelope in coming:
            if envelope["type"] == EventType.RESULT:
                return envelope["result"]
            if envelope["type"] == EventType.ERROR:
                raise failure_of(envelope["error"])
    raise EngineFailed("The tribunal broke off without a result.")
