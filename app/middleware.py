"""Pure-ASGI middleware, outermost first: CancelledOnce, request id, observation, door, deadline, disconnect, body, last
resort.

None of them buffers, so streams pass through piece by piece.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import UNEXPECTED, BodyTooSlow, NotFromEdge, problem_of
from app.telemetry import Telemetry
from deployments.deadline import left_of, timeout_of, within
from deployments.errors import BodyTooLarge, ServingError
from deployments.hang_up import ended_by_disconnect
from deployments.principal import CURRENT
from deployments.request_log import NOTES, tell
from deployments.secret import Door
from deployments.tracing import named

log = logging.getLogger("corral.gateway")
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
LOOKED_AT = frozenset({"/health", "/ready", "/metrics", "/internal/replicas", "/internal/nodes"})
EXPECTED = (200, 503)
"""Routes that programs ask again and again, and what they are answered: that is not logged."""
BYTES_PER_SECOND = 64 << 10
"""The slowest body that is still waited for, once the first seconds are over."""


def request_id(scope: Scope) -> str:
    """The id that RequestId gave this request."""
    return str(scope.get("state", {}).get("request_id", "-"))


class RequestId:
    """Every request has an id: the client's if it is sane, else a new one; every response names it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        chosen = given if SANE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = chosen

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                MutableHeaders(scope=message).setdefault("x-request-id", chosen)
            await send(message)

        return await self.app(scope, receive, named)


class Observe:
    """Counts and times every request by its route's template, and logs one line about it."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app, self.telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = 499  # the client left before an answer began
        NOTES.set({})

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        with self.telemetry.in_flight.track_inprogress():
            try:
                await self.app(scope, receive, noted)
            finally:
                self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        self.telemetry.request(route, scope["method"], status, seconds)
        if route in LOOKED_AT and status in EXPECTED:
            return
        told = {"method": scope["method"], "route": route, "status": status, "total_ms": round(seconds * 1000, 2)}
        tell("request", **told, **(NOTES.get() or {}))


class Admitted:
    """Lets in what comes through the edge or from the service itself, and notes on whose behalf."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        principal = self._door.principal(scope)
        if principal is None:
            return await problem_of(NotFromEdge()).response()(scope, receive, send)
        name = request_id(scope)
        CURRENT.set(replace(named(principal, scope), request=principal.request or name, label=name))
        return await self.app(scope, receive, send)


class OwnDeadline:
    """Ends what has no answer by the deadline that the request gives."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            await within(timeout_of(scope), send, partial(self.app, scope, receive), left_of(scope))
        except ServingError as error:
            await problem_of(error).response()(scope, receive, send)
        return None


class CancelOnDisconnect:
    """Cancels the application within moments of the client's leaving, streaming or not.

    Once the body has been read, only this listens for the disconnect; the application's own `receive` gets it too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        line = _Line(receive, send)
        try:
            try:
                await self.app(scope, line.receive, line.send)
            finally:
                await line.close()
        except asyncio.CancelledError:
            if not line.hung_up_alone():
                raise


class _Line:
    """One request's connection, watched from the end of its body to the end of its answer."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._watcher: asyncio.Task[None] | None = None
        self._cancelled: asyncio.Task[object] | None = None
        self._answered = False

    async def receive(self) -> Message:
        if self._watcher:
            await asyncio.shield(self._watcher)
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            task = asyncio.current_task()
            assert task is not None
            self._watcher = asyncio.create_task(self._watch(task))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True
        await self._send(message)

    async def _watch(self, task: asyncio.Task[object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._answered:
            self._cancelled = task
            task.cancel()

    def hung_up_alone(self) -> bool:
        """Whether the cancellation came from here and from nowhere else."""
        return self._cancelled is not None and self._cancelled.uncancel() == 0

    async def close(self) -> None:
        if self._watcher:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)


class BoundBody:
    """Bounds length and pace of the body while it is read, with or without a content-length."""

    def __init__(self, app: ASGIApp, max_body: int, by_path: Mapping[re.Pattern[str], int], timeout_s: float) -> None:
        self.app, self.max_body, self.by_path, self.timeout_s = app, max_body, by_path, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = self._bounded(receive, scope)
        await self.app(scope, receive, send)

    def _bounded(self, receive: Receive, scope: Scope) -> Receive:
        limits = (limit for path, limit in self.by_path.items() if path.fullmatch(scope["path"]))
        limit = next(limits, self.max_body)
        declared = Headers(scope=scope).get("content-length", "0")
        received, complete, began = 0, False, asyncio.get_running_loop().time()

        async def bounded() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            _check_length(int(declared) if declared.isdecimal() else 0, limit)
            message = await _in_time(receive, began + self.timeout_s + received / BYTES_PER_SECOND)
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            _check_length(received, limit)
            return message

        return bounded


class LastResort:
    """What nobody expected is logged and answered with a 500 that says nothing about it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except ClientDisconnect:
            return
        except Exception:
            log.exception("unexpected failure, id=%s", request_id(scope))
            if started or scope["type"] != "http":
                raise
            await UNEXPECTED.response()(scope, receive, send)


def _check_length(length: int, limit: int) -> None:
    if length > limit:
        raise BodyTooLarge(f"The body is past the limit of {limit} bytes.", "body")


async def _in_time(receive: Callable[[], Awaitable[Message]], until: float) -> Message:
    try:
        async with asyncio.timeout_at(until):
            return await receive()
    except TimeoutError:
        raise BodyTooSlow("The body did not arrive in time.", "body") from None


class CancelledOnce:
    """Pure-ASGI middleware, outermost: keeps Serve's cancellation away, for CancelOnDisconnect cancels as well."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await ended_by_disconnect(self._app(scope, receive, send))
