"""What a replica does when its engine has died: nothing it says then looks complete, and what had no answer may go on.

Its process would live for seconds, until Serve's checks have failed often enough. So it refuses at once with a 503 that
says nothing was sent, on which the edge asks another replica, and ends by itself: Serve sees that sooner, and the edge
finds its port closed.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("ray.serve")
POLL_S = 0.1
GRACE_S = 1.0
"""For the answers under way to say that they broke off."""
ERROR_EVENT, DONE = b'data: {"error"', b"data: [DONE]"
MESSAGE = "The engine died before it answered; the request can be sent again."
BODY = json.dumps(
    {"error": {"message": MESSAGE, "type": "server_error", "param": None, "code": "engine_failed"}}
).encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode()), (b"retry-after", b"5")]


class EndWithEngine:
    """Pure-ASGI wrapper of a replica's app. `dead` tells whether the engine is. Attributes it lacks are the app's."""

    def __init__(self, app: ASGIApp, dead: Callable[[], bool]) -> None:
        self.app, self._dead = app, dead

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["app"], name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
        elif self._dead():
            await _refuse(send)
        else:
            await self.app(scope, receive, _Answer(send, self._dead).send)


class _Answer:
    """An answer on its way. Its start waits for the first bytes, which may be all that a dead engine left to say."""

    def __init__(self, send: Send, dead: Callable[[], bool]) -> None:
        self._send, self._dead = send, dead
        self._start: Message | None = None
        self._broken = self._refused = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        body: bytes = message.get("body", b"")
        if self._start is not None and not await self._begin(body, message):
            return
        if self._refused:
            return
        if body.startswith(ERROR_EVENT):
            self._broken = True
        if self._broken and DONE in body:  # a stream that broke is not complete
            message = {**message, "body": body.partition(DONE)[0]}
        await self._send(message)

    async def _begin(self, body: bytes, message: Message) -> bool:
        """Send the start; False if there was nothing to send yet, or a refusal was sent in its place."""
        assert self._start
        if not body and message.get("more_body", False):
            return False
        failed = self._start["status"] >= 500 or body.startswith(ERROR_EVENT)
        start, self._start = self._start, None
        if failed and self._dead():
            self._refused = True
            await _refuse(self._send)
            return False
        await self._send(start)
        return True


async def _refuse(send: Send) -> None:
    await send({"type": "http.response.start", "status": 503, "headers": list(HEADERS)})
    await send({"type": "http.response.body", "body": BODY})


def end_with(
    dead: Callable[[], bool],
    end: Callable[[int], None] = os._exit,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the engine is dead, then end this process: what else it has to say is said within the grace.

    For a thread: vLLM's own clearing up after an engine may hold up the event loop.
    """
    while not dead():
        sleep(POLL_S)
    log.error("the engine has died; this replica ends, and Serve starts another")
    sleep(GRACE_S)
    end(1)
