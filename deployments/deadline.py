"""A request's own deadline, X-Request-Timeout: what has no answer by then ends, and is told so."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable

from starlette.types import Message, Scope, Send

from deployments.errors import BadRequest, DeadlineExceeded

HEADER = "x-request-timeout"
NAME = HEADER.encode()
LEFT = b"x-corral-time-left"
"""Milliseconds that were left of it when the edge passed the request on."""
LONGEST_S = 86_400.0


def timeout_of(scope: Scope) -> float | None:
    """Seconds that the client gives, or None. Raises BadRequest."""
    given = next((value for name, value in scope["headers"] if name == NAME), None)
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_S:
        raise BadRequest(f"{HEADER}: must be seconds, more than 0 and at most {LONGEST_S:g}.", HEADER)
    return seconds


def left_of(scope: Scope) -> float | None:
    """Seconds that are left of what the client gives. Raises BadRequest."""
    given = timeout_of(scope)
    told = next((value for name, value in scope["headers"] if name == LEFT), b"")
    return min(given, int(told) / 1000) if given and told.isdigit() else given


def too_late(seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"There was no whole answer within the {seconds:g} s that the request gave.")


async def within(
    seconds: float | None, send: Send, answer: Callable[[Send], Awaitable[None]], left_s: float | None = None
) -> None:
    """Run `answer`, for so long at most. Raises DeadlineExceeded where nothing was sent by then.

    left_s: of the seconds, where some have passed already.

    A stream of events ends with an error event, and any other answer that has begun is cut off.
    """
    if seconds is None:
        await answer(send)
        return
    timeout = asyncio.timeout(seconds if left_s is None else left_s)
    sent = _Sent(send, timeout)
    try:
        async with timeout:
            await answer(sent)
    except TimeoutError:
        if not timeout.expired():
            raise
        sent.is_late = True
    if sent.is_late:
        await sent.end(too_late(seconds))


class _Sent:
    """Passes an answer on until it is too late, and remembers what of it was sent.

    vLLM answers a request that is ended with what it has so far.
    """

    def __init__(self, send: Send, timeout: asyncio.Timeout) -> None:
        self._send, self._timeout = send, timeout
        self._until = timeout.when() or math.inf
        self._start: Message | None = None
        self._whole = False
        self.is_late = False

    async def __call__(self, message: Message) -> None:
        if self.is_late or self._has_come():
            self.is_late = True
            return
        if message["type"] == "http.response.start":
            self._start = message
        elif not message.get("more_body", False):
            self._whole = True
        await self._send(message)

    def _has_come(self) -> bool:
        """Asked of the timer as well: by uvloop's clock, in milliseconds, it may fire a rounding before its time."""
        return self._timeout.expired() or asyncio.get_running_loop().time() >= self._until

    async def end(self, error: DeadlineExceeded) -> None:
        if self._whole:
            return
        if self._start is None:
            raise error
        if not _is_stream(self._start):
            raise ConnectionAbortedError(error.message)
        detail = {"message": error.message, "type": "server_error", "param": None, "code": error.reason}
        event = b"data: " + json.dumps({"error": detail}).encode() + b"\n\n"
        await self._send({"type": "http.response.body", "body": event})


def _is_stream(start: Message) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in
               start.get("headers", ()))  # fmt: skip
