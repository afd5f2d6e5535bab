"""Errors of a replica in OpenAI's shape: our own, and what vLLM's app says, worded so that it names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Send

from deployments.errors import (
    FULL_MS,
    BadRequest,
    BodyTooLarge,
    DeadlineExceeded,
    Forbidden,
    Overloaded,
    ServingError,
    Unavailable,
    WrongContentType,
)
from deployments.request_body import INPUT_FIELDS

TASK_OF = {
    "/v1/chat/completions": "generate",
    "/v1/completions": "generate",
    "/v1/responses": "generate",
    "/v1/embeddings": "embed",
}
"""Path -> the task of the models that have it."""
STATUS: dict[type[ServingError], int] = {
    Forbidden: 403, BodyTooLarge: 413, WrongContentType: 415, Overloaded: 429, Unavailable: 503, DeadlineExceeded: 504,
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What an error is worded with: the path, what the model does, and the body where it was looked at."""

    route: str
    task: str
    parsed: Mapping[str, Any] = field(default_factory=dict)


def error_body(message: str, param: str | None, status: int, code: str) -> bytes:
    """OpenAI's error shape."""
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


async def send_error(send: Send, error: ServingError) -> None:
    status = STATUS.get(type(error), 400)
    param = error.param if isinstance(error, BadRequest | Forbidden) else None
    wait, holds_ms = (error.retry_after_s, error.holds_ms) if isinstance(error, Overloaded) else (None, 0)
    await send_json(send, status, error_body(error.message, param, status, error.reason), wait, holds_ms)


async def send_json(send: Send, status: int, body: bytes, retry_after_s: int | None = None, holds_ms: int = 0) -> None:
    """holds_ms: for the edge, which says the same for so long."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"retry-after", str(retry_after_s).encode())] if retry_after_s is not None else []
    headers += [(FULL_MS.encode(), str(holds_ms).encode())] if holds_ms else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def in_openai_shape(send: Send, asked: Asked) -> Send:
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
        await send_json(send, status, reworded)
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
    if param is None and status == 400:  # what vLLM leaves unnamed is about the input
        param = next((name for name in INPUT_FIELDS if name in asked.parsed), None)
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
