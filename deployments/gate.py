"""The ASGI gate in front of vLLM's app on each replica: once per request, never once per token.

vLLM names the field in nearly every error. The gate adds what it lets through or words otherwise: JSON that
does not parse, unknown fields, empty prompts, bodies past the limit, and errors that are not OpenAI-shaped.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.config import unknown_key
from deployments.courtesy import Courtesy
from deployments.deadline import timeout_of, within
from deployments.direct_chat import ROUTE as CHAT
from deployments.direct_chat import DirectChat, send_events
from deployments.errors import (
    BadRequest,
    BodyTooLarge,
    DeadlineExceeded,
    Forbidden,
    Overloaded,
    ServingError,
    Unavailable,
    WrongContentType,
)
from deployments.hang_up import ended_by_disconnect
from deployments.principal import CURRENT, MODELS
from deployments.secret import NOT_FROM_EDGE, Door
from deployments.strict_json import as_object, check_values, parse_json
from deployments.waiting_room import WaitingRoom, request_cost

TASK_OF = {
    "/v1/chat/completions": "generate",
    "/v1/completions": "generate",
    "/v1/responses": "generate",
    "/v1/embeddings": "embed",
}
"""Path -> the task of the models that have it."""

ORDERED = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
"""Paths whose requests may say a priority."""
PRIORITY = b"x-vllm-priority"
"""vLLM's header for it, which counts before the body."""
MOST_INPUTS = 256
"""Prompts or texts of one request: each is a sequence of its own."""
MOST_STOPS = 64
"""Words at which an answer ends, or that it may not have: each is looked for at every token."""
INPUT_FIELDS = ("messages", "prompt", "input")


def check_request(body: bytes, fields: frozenset[str] | None) -> dict[str, Any]:
    """The JSON object that `body` is. Raises BadRequest unless its fields are known and there is something to answer.

    fields: the valid top-level keys, or None to let every key through.
    """
    parsed = as_object(parse_json(body))
    if b"\\u" in body:
        check_values(parsed)
    if fields is not None:
        for key in parsed:
            if key not in fields:
                raise BadRequest(_unknown_field(key, fields), key[:64])
    for name in INPUT_FIELDS:
        if name in parsed and parsed[name] in ("", [], [""]):
            raise BadRequest(f"'{name}' is empty: send at least one {_unit(name)}.", name)
    _check_amounts(parsed)
    return parsed


def _check_amounts(parsed: dict[str, Any]) -> None:
    """Raises BadRequest for what one request may not ask so much of, or not in that way."""
    for name in ("prompt", "input"):
        given = parsed.get(name)
        if isinstance(given, list) and len(given) > MOST_INPUTS and not isinstance(given[0], int):
            raise BadRequest(f"{name}: at most {MOST_INPUTS}, got {len(given)}; POST /bulk has room for more.", name)
    for name in ("stop", "bad_words", "stop_token_ids"):
        if isinstance(given := parsed.get(name), list) and len(given) > MOST_STOPS:
            raise BadRequest(f"{name}: at most {MOST_STOPS}, got {len(given)}.", name)
    if type(parsed.get("priority") or 0) is not int:
        raise BadRequest("priority: must be an integer.", "priority")


def _unknown_field(key: str, fields: frozenset[str]) -> str:
    """Name the field and the nearest valid one; the whole list would be longer than help is."""
    return unknown_key(key[:64], fields).split("; valid keys")[0].replace("unknown key", "Unknown field")


def _unit(name: str) -> str:
    return "message" if name == "messages" else "character"


def error_body(message: str, param: str | None, status: int, code: str) -> bytes:
    """OpenAI's error shape."""
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


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

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["app"], name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        principal = self._door.principal(scope)
        if principal is None:
            await _send_json(send, 401, error_body(NOT_FROM_EDGE, None, 401, "not_from_edge"))
            return
        CURRENT.set(principal)
        asked = Asked(_route(scope), self._task)
        if scope["method"] != "POST":
            await self.app(scope, receive, _openai_errors(send, asked))
            return
        with self._courtesy.person():
            await self._post(scope, receive, send, asked)

    async def _post(self, scope: Scope, receive: Receive, send: Send, asked: Asked) -> None:
        try:
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != PRIORITY]}
            timeout_s = timeout_of(scope)
            body, parsed = await self._checked_body(scope, receive)
            call = _Call(scope, receive, asked, body, parsed)
            await within(timeout_s, send, partial(self._in_turn, call, timeout_s))
        except ServingError as error:
            await _refuse(send, error)

    async def _in_turn(self, call: _Call, timeout_s: float | None, send: Send) -> None:
        """Answer it when it is its turn. Raises ServingError while nothing is sent yet."""
        if self._room is None or not call.asked.route.startswith("/v1/"):
            await self._answer(call, send)
            return
        cost = request_cost(len(call.body), call.parsed)
        async with self._room.turn(CURRENT.get(), cost, timeout_s) as turn:
            await self._answer(_behind(call, turn.priority), send)

    async def _answer(self, call: _Call, send: Send) -> None:
        scope, receive, asked, body, parsed = call
        if self._direct and asked.route == CHAT and (events := await self._direct.events(parsed, scope)):
            await send_events(events, send)
            return
        replay = _Replay(body, receive)
        await ended_by_disconnect(
            self.app(scope, replay.receive, _openai_errors(send, replace(asked, body=body))), replay.hang_up
        )

    async def _checked_body(self, scope: Scope, receive: Receive) -> tuple[bytes, dict[str, Any]]:
        """The body, and what it says where it was looked at."""
        route = _route(scope)
        body = await read_body(receive, self._max_body)
        if route not in self._fields:
            return body, self._read(body) if _is_json(scope) and body else {}
        if not _is_json(scope):
            raise WrongContentType("Send the body as JSON with 'Content-Type: application/json'.", "content-type")
        return body, self._allowed(check_request(body, self._fields[route]))

    def _read(self, body: bytes) -> dict[str, Any]:
        """Of a path that has its own way to say what is wrong with a body."""
        parsed = parse_json(body)
        return self._allowed(check_request(body, None)) if isinstance(parsed, dict) else {}

    def _allowed(self, parsed: dict[str, Any]) -> dict[str, Any]:
        """Raises Forbidden: what the edge read as the model may be another than what vLLM would."""
        model = parsed.get("model")
        if isinstance(model, str) and not CURRENT.get().may(MODELS, model):
            raise Forbidden(f"This API key may not ask {model[:96]!r}.", "model")
        return parsed


class _Call(NamedTuple):
    """A request that was read."""

    scope: Scope
    receive: Receive
    asked: Asked
    body: bytes
    parsed: dict[str, Any]


def _behind(call: _Call, priority: int) -> _Call:
    """The same with its place in the engine's order; nobody puts himself before others there."""
    given = call.parsed.get("priority") or 0
    wanted = max(priority, given)
    if call.asked.route not in ORDERED or wanted == given:
        return call
    parsed = {**call.parsed, "priority": wanted}
    return call._replace(parsed=parsed, body=json.dumps(parsed).encode())


def _route(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def read_body(receive: Receive, limit: int) -> bytes:
    """Read a whole request body of at most `limit` bytes. Raises BodyTooLarge."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(chunks)
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"The body is larger than {limit} bytes.", "body")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


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


@dataclass(frozen=True)
class Asked:
    """What an error is worded with: the request, and what the model does."""

    route: str
    task: str
    body: bytes = b""


def _openai_errors(send: Send, asked: Asked) -> Send:
    """Give JSON errors OpenAI's shape; pass everything else on untouched."""
    held: list[Message] = []

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            held.append(message)
            return
        if not held:
            await send(message)
            return
        held.append(message)
        if not message.get("more_body", False):
            await _send_held(held, asked, send)
            held.clear()

    return guarded


async def _send_held(held: list[Message], asked: Asked, send: Send) -> None:
    status, body = held[0]["status"], b"".join(part.get("body", b"") for part in held[1:])
    try:
        reworded = _reworded(json.loads(body), status, asked)
    except (ValueError, AttributeError):
        reworded = None
    if reworded is not None:
        await _send_json(send, status, reworded)
        return
    await send(held[0])
    await send({"type": "http.response.body", "body": body})


def _reworded(given: dict[str, Any], status: int, asked: Asked) -> bytes | None:
    """FastAPI's {"detail": ...} or vLLM's {"error": ...} as OpenAI words it; None if it is neither."""
    if status == 404 and given.get("detail") == "Not Found":
        return error_body(_no_such_route(asked), "model" if asked.route in TASK_OF else None, status, "not_found")
    if given.get("detail") is not None:
        return error_body(str(given["detail"]), None, status, "not_found" if status == 404 else "invalid_request")
    error = given.get("error")
    if not isinstance(error, dict):
        return None
    message = str(error.get("message"))
    param = _field(error.get("param")) if status < 500 else None
    if param is None and status == 400:
        param = _input_of(asked.body)
    return error_body(message, param, status, _code(status, message))


def _no_such_route(asked: Asked) -> str:
    wanted = TASK_OF.get(asked.route)
    if wanted and wanted != asked.task:
        return (
            f"{asked.route} is for models of task {wanted!r}; this one's is {asked.task!r}. /v1/models tells them all."
        )
    return f"The model has no path {asked.route[:128]!r}."


def _code(status: int, message: str) -> str:
    if status >= 500:
        return "engine_failed"
    if status == 404:
        return "model_not_found" if message.startswith("The model") else "not_found"
    return "context_length_exceeded" if "context length" in message else "invalid_request"


def _field(param: Any) -> str | None:
    """vLLM's name of a field as the body has it: `body.` and the names of its validators are left out.

    `input_tokens` is no field; it is how many the input has.
    """
    parts = str(param or "").removeprefix("body").strip(".").split(".")
    name = ".".join(part for part in parts if part and not part.startswith("function-"))
    return name if name and name != "input_tokens" else None


def _input_of(asked: bytes) -> str | None:
    """The field with the input: what vLLM leaves unnamed is about it."""
    try:
        parsed = json.loads(asked)
    except ValueError:
        return None
    return next((name for name in INPUT_FIELDS if name in parsed), None)


STATUS: dict[type[ServingError], int] = {
    Forbidden: 403, BodyTooLarge: 413, WrongContentType: 415, Overloaded: 429, Unavailable: 503, DeadlineExceeded: 504,
}  # fmt: skip


async def _refuse(send: Send, error: ServingError) -> None:
    status = STATUS.get(type(error), 400)
    param = error.param if isinstance(error, BadRequest | Forbidden) else None
    wait = error.retry_after_s if isinstance(error, Overloaded) else None
    await _send_json(send, status, error_body(error.message, param, status, error.reason), wait)


async def _send_json(send: Send, status: int, body: bytes, retry_after_s: int | None = None) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"retry-after", str(retry_after_s).encode())] if retry_after_s is not None else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
