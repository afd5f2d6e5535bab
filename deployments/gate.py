"""The ASGI gate in front of vLLM's app on each replica: once per request, never once per token.

vLLM names the field in nearly every error. The gate adds what it lets through or words otherwise: JSON that
does not parse, unknown fields, empty prompts, bodies past the limit, and errors that are not OpenAI-shaped.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.courtesy import Courtesy
from deployments.deadline import left_of, timeout_of, within
from deployments.direct_chat import ROUTE as CHAT
from deployments.direct_chat import DirectChat, send_events
from deployments.errors import Forbidden, ServingError, WrongContentType
from deployments.hang_up import ended_by_disconnect
from deployments.openai_errors import Asked, error_body, in_openai_shape, send_error, send_json
from deployments.principal import CURRENT, MODELS
from deployments.request_body import check_foreign, check_request, read_body
from deployments.secret import NOT_FROM_EDGE, Door
from deployments.stream_pieces import in_pieces
from deployments.tracing import TRACES, named
from deployments.waiting_room import WaitingRoom, request_cost

ORDERED = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
"""Paths whose requests may say a priority."""
PRIORITY = b"x-vllm-priority"
"""vLLM's header for it, which counts before the body."""


class Gate:
    """Pure-ASGI wrapper of vLLM's app.

    fields:   path suffix (such as "/v1/chat/completions") -> its valid top-level keys.
    max_body: bytes; a longer body is answered 413 without being read to its end.
    task:     what the model does; a path that it does not have is refused with it.
    direct:   answers streamed chat requests past vLLM's app, those that it takes.
    courtesy: is told of every request, for bulk to step back.
    door:     lets in who came through the edge.
    room:     where requests wait for their turn in the engine.

    Attributes it lacks are the wrapped app's: Serve looks at them.
    """

    def __init__(
        self,
        app: ASGIApp,
        fields: Mapping[str, frozenset[str]],
        max_body: int,
        task: str,
        direct: DirectChat | None = None,
        courtesy: Courtesy | None = None,
        door: Door | None = None,
        room: WaitingRoom | None = None,
    ) -> None:
        self.app = app
        self._room = room
        self._door = door or Door(None)
        self._courtesy = courtesy or Courtesy(1)
        self._direct = direct
        self._task = task
        self._fields = fields
        self._max_body = max_body

    def bound(self, max_body: int) -> None:
        """Take bodies of so many bytes from now on."""
        self._max_body = max_body

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["app"], name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        principal = self._door.principal(scope)
        if principal is None:
            await send_json(send, 401, error_body(NOT_FROM_EDGE, None, 401, "not_from_edge"))
            return
        CURRENT.set(named(principal, scope))
        if scope["method"] != "POST":
            await self.app(scope, receive, in_openai_shape(send, Asked(_route(scope), self._task)))
            return
        with self._courtesy.person(), TRACES.span("replica", kind="server"):
            await self._post(scope, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            timeout_s, left_s = timeout_of(scope), left_of(scope)
            call = await self._read(scope, receive)
            await within(timeout_s, send, partial(self._in_turn, call, left_s), left_s)
        except ServingError as error:
            await send_error(send, error)

    async def _in_turn(self, call: _Call, timeout_s: float | None, send: Send) -> None:
        """Answer it when it is its turn. Raises ServingError while nothing is sent yet."""
        if self._room is None or not call.route.startswith("/v1/"):
            await self._answer(call, send)
            return
        principal, cost = CURRENT.get(), request_cost(len(call.body), call.parsed)
        minded = bool(principal.key) and call.parsed.get("stream") is True and self._room.turns.mind_pieces
        async with self._room.turn(principal, cost, timeout_s, minded) as turn:
            await self._answer(_behind(call, turn.priority), in_pieces(send, turn) if minded else send)

    async def _answer(self, call: _Call, send: Send) -> None:
        scope, receive, route, body, parsed = call
        if self._direct and route == CHAT and (events := await self._direct.events(parsed, scope)):
            await send_events(events, send)
            return
        replay = _Replay(body, receive)
        shaped = in_openai_shape(send, Asked(route, self._task, parsed))
        await ended_by_disconnect(self.app(scope, replay.receive, shaped), replay.hang_up)

    async def _read(self, scope: Scope, receive: Receive) -> _Call:
        """Raises ServingError."""
        route = _route(scope)
        body = await read_body(receive, self._max_body)
        parsed = self._checked(route, body, _is_json(scope))
        model = parsed.get("model")
        if isinstance(model, str) and not CURRENT.get().may(MODELS, model):
            # what the edge read as the model may be another than what vLLM would
            raise Forbidden(f"This API key may not ask {model[:96]!r}.", "model")
        return _Call(_without_priority(scope), receive, route, body, parsed)

    def _checked(self, route: str, body: bytes, is_json: bool) -> dict[str, Any]:
        """What the body says; {} where it is not looked at."""
        fields = self._fields.get(route)
        if fields is None:
            return check_foreign(body) if is_json and body else {}
        if not is_json:
            raise WrongContentType("Send the body as JSON with 'Content-Type: application/json'.", "content-type")
        return check_request(body, fields)


class _Call(NamedTuple):
    """A request that was read."""

    scope: Scope
    receive: Receive
    route: str
    body: bytes
    parsed: dict[str, Any]


def _behind(call: _Call, priority: int) -> _Call:
    """The same with its place in the engine's order; nobody puts himself before others there."""
    given = call.parsed.get("priority") or 0
    wanted = max(priority, given)
    if wanted == given or not (call.route in ORDERED or "priority" in call.parsed):
        return call
    parsed = {**call.parsed, "priority": wanted}
    return call._replace(parsed=parsed, body=json.dumps(parsed).encode())


def _route(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _without_priority(scope: Scope) -> Scope:
    if any(name == PRIORITY for name, _ in scope["headers"]):
        return {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != PRIORITY]}
    return scope


def _is_json(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"content-type":
            return bool(value.split(b";")[0].strip().lower() == b"application/json")
    return False


class _Replay:
    """Hands out the body once, and then the disconnect, whoever tells of it first."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._pending = [body]
        self._receive = receive
        self._gone = asyncio.Event()

    def hang_up(self) -> None:
        self._gone.set()

    async def receive(self) -> Message:
        if self._pending:
            return {"type": "http.request", "body": self._pending.pop(), "more_body": False}
        told, gone = asyncio.ensure_future(self._receive()), asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait({told, gone}, return_when=asyncio.FIRST_COMPLETED)
            return told.result() if told.done() else {"type": "http.disconnect"}
        finally:
            told.cancel()
            gone.cancel()
