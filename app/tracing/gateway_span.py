"""Pure-ASGI middleware: the gateway's span of a request, under the edge's."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.request_log import NOTES
from deployments.tracing import MODEL, TRACES, Told

LEFT = 499
"""The client left before an answer began."""


class Traced:
    """Around what is admitted: the span says the route's template, the status, and the model where one is known."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not TRACES.on or scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = LEFT

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with TRACES.span(scope["method"], kind="server") as span:
            try:
                await self.app(scope, receive, noted)
            finally:
                _tell(span, scope, status)


def _tell(span: Told, scope: Scope, status: int) -> None:
    route = getattr(scope.get("route"), "path", None)
    if route:
        span.rename(f"{scope['method']} {route}")
    if status >= 500:
        span.fail()
    span.say({
        "http.request.method": scope["method"], "http.route": route, "http.response.status_code": status,
        MODEL: (NOTES.get() or {}).get("model"),
    })  # fmt: skip
