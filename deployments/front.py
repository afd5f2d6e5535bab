"""What stands before Serve's own way to an application, in every process of it that answers HTTP."""

from __future__ import annotations

from collections.abc import Callable

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import Overloaded
from deployments.openai_errors import send_error
from deployments.principal import Principal
from deployments.secret import HEALTH, Door, OnlyFromInside, own_secret

MIDDLEWARES = "deployments.front.middlewares"
"""For Serve: it puts them around whatever a replica or a proxy of it answers, websockets and its own paths included."""
TurnedAway = Callable[[Principal], Overloaded | None]


class FullQueue:
    """Whom the queue of this process's replica turns away; one that has none turns away nobody."""

    def __init__(self) -> None:
        self._turned_away: TurnedAway | None = None

    def is_of(self, turned_away: TurnedAway) -> None:
        self._turned_away = turned_away

    def told(self, principal: Principal) -> Overloaded | None:
        return self._turned_away(principal) if self._turned_away else None


FULL_QUEUE = FullQueue()


class UnlessFull:
    """Pure-ASGI middleware: refuses what a full queue turns away, before its body is read and Serve looks at it.

    Under overload most requests end so, and what they cost the answers lack.
    """

    def __init__(self, app: ASGIApp, door: Door, queue: FullQueue) -> None:
        self.app, self._door, self._queue = app, door, queue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if _takes_turns(scope) else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await send_error(send, refusal)

    def _refusal(self, scope: Scope) -> Overloaded | None:
        principal = self._door.principal(scope)
        return self._queue.told(principal) if principal else None


def _takes_turns(scope: Scope) -> bool:
    """Whether it waits for a turn of the engine, by its path: /models/ID/v1/..."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    path: str = scope["path"]
    return path.split("/", 4)[3:4] == ["v1"]


def middlewares() -> list[Middleware]:
    """What Ray Serve asks for by its name."""
    door = Door(own_secret())
    return [Middleware(OnlyFromInside, door, HEALTH), Middleware(UnlessFull, door, FULL_QUEUE)]
