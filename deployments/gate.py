"""The ASGI gate in front of vLLM's app on each replica: once per request, never once per token.

vLLM names the field in nearly every error. The gate adds what it lets through or words otherwise: JSON that
does not parse, unknown fields, empty prompts, bodies past the limit, and errors that are not OpenAI-shaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.config import unknown_key
from deployments.errors import BadRequest, BodyTooLarge, WrongContentType
from deployments.strict_json import as_object, check_values, parse_json

INPUT_FIELDS = ("messages", "prompt", "input")


def check_request(body: bytes, fields: frozenset[str] | None) -> None:
    """Raise BadRequest unless `body` is a JSON object of known fields with something to answer.

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


def _unknown_field(key: str, fields: frozenset[str]) -> str:
    """Name the field and the nearest valid one; the whole list would be longer than help is."""
    return unknown_key(key[:64], fields).split("; valid keys")[0].replace("unknown key", "Unknown field")


def _unit(name: str) -> str:
    return "message" if name == "messages" else "character"


def error_body(message: str, param: str | None, status: int, code: str) -> bytes:
    """OpenAI's error shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


class Gate:
    """Pure-ASGI wrapper of vLLM's app.

    fields:   path suffix (such as "/v1/chat/completions") -> its valid top-level keys.
    max_body: bytes; a longer body is answered 413 without being read to its end.

    Attributes it lacks are the wrapped app's: Serve looks at them.
    """

    def __init__(self, app: ASGIApp, fields: Mapping[str, frozenset[str]], max_body: int) -> None:
        self.app = app
        self._fields = fields
        self._max_body = max_body

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["app"], name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        guarded = _openai_errors(send)
        if scope["method"] != "POST":
            await self.app(scope, receive, guarded)
            return
        try:
            body = await self._checked_body(scope, receive)
        except BadRequest as error:
            await _refuse(send, error)
            return
        await self.app(scope, _replay(body, receive), guarded)

    async def _checked_body(self, scope: Scope, receive: Receive) -> bytes:
        route = scope["path"].removeprefix(scope.get("root_path", ""))
        body = await read_body(receive, self._max_body)
        if route in self._fields:
            if not _is_json(scope):
                raise WrongContentType("Send the body as JSON with 'Content-Type: application/json'.", "content-type")
            check_request(body, self._fields[route])
        return body


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


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that hands out the body once and then whatever comes, which is the disconnect."""
    pending = [body]

    async def replayed() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replayed


def _openai_errors(send: Send) -> Send:
    """Reword a JSON error that is not OpenAI-shaped ({"detail": ...}); pass everything else on untouched."""
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
            await _send_held(held, send)
            held.clear()

    return guarded


async def _send_held(held: list[Message], send: Send) -> None:
    start, body = held[0], b"".join(part.get("body", b"") for part in held[1:])
    try:
        detail = json.loads(body).get("detail")
    except (ValueError, AttributeError):
        detail = None
    if detail is None:
        await send(start)
        await send({"type": "http.response.body", "body": body})
        return
    code = "not_found" if start["status"] == 404 else "invalid_request"
    await _send_json(send, start["status"], error_body(str(detail), None, start["status"], code))


async def _refuse(send: Send, error: BadRequest) -> None:
    status = {BodyTooLarge: 413, WrongContentType: 415}.get(type(error), 400)
    await _send_json(send, status, error_body(error.message, error.param, status, error.reason))


async def _send_json(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
