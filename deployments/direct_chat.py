"""Streamed chat requests straight to vLLM's serving layer, past FastAPI and its middleware.

vLLM's handler for them does nothing but ask OpenAIServingChat and stream what comes; on the way FastAPI routes, solves
dependencies and sends every token through five functions (a fifth of the API process's time). What this does not take,
and everything that is refused before the engine has it, goes the usual way, which words the error.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.types import Scope, Send

from deployments.plain_stream import write_plain_streams

ROUTE = "/v1/chat/completions"
STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
USUAL = (b"origin", b"serve_multiplexed_model_id")
"""Headers of requests that need a middleware of vLLM's or Serve's app."""
ARGUMENTS = (
    "api_key", "middleware", "enable_request_id_headers", "sse_keep_alive_interval", "root_path",
    "enable_server_load_tracking",
)  # fmt: skip
"""Arguments of vLLM's server that put something around its routes."""
KEY = "VLLM_API_KEY"
"""A variable that does so, too."""


class DirectChat:
    """Answers the requests that it takes; `app` is vLLM's, as ray.serve.llm built it, request_type its chat request."""

    def __init__(self, app: Any, request_type: Any) -> None:
        self._app = app
        self._request_type = request_type
        self._serving: Any = getattr(app.state, "openai_serving_chat", None)
        arguments = getattr(app.state, "args", None)
        around = os.environ.get(KEY) or any(getattr(arguments, name, None) for name in ARGUMENTS)
        self._usable = self._serving is not None and not around
        if self._serving is not None:
            write_plain_streams(self._serving)

    async def events(self, parsed: dict[str, Any], scope: Scope) -> AsyncGenerator[str, None] | None:
        """The events of a streamed answer; None if the request has to go the usual way. Nothing has begun yet."""
        if not self._usable or parsed.get("stream") is not True:
            return None
        if any(name in USUAL for name, _ in scope["headers"]):
            return None
        try:
            request = self._request_type.model_validate(parsed)
            answer = await self._serving.create_chat_completion(request, Request({**scope, "app": self._app}))
        except Exception:
            return None  # the usual way comes to the same fault, and words it
        return answer if isinstance(answer, AsyncGenerator) else None


async def send_events(events: AsyncGenerator[str, None], send: Send) -> None:
    """Send them as they come. Cancelled, it ends the request in the engine."""
    try:
        await send({"type": "http.response.start", "status": 200, "headers": [STREAM]})  # Serve adds to the list
        async for event in events:
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await events.aclose()
