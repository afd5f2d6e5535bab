"""An ASGI app that can be replaced by another while it runs: each request ends in the one that it began in."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send


class ReplaceableApp:
    """Attributes it lacks are the first app's: Serve looks at them, and has it begin and end (lifespan)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self._first = app, app

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_first"], name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._first if scope["type"] == "lifespan" else self.app)(scope, receive, send)
