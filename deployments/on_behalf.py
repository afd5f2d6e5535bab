"""Calls between deployments carry along on whose behalf they are made: the side that is called."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from deployments.principal import CURRENT, Principal
from deployments.tracing import TRACES


class OnBehalf:
    """Mixed into a deployment whose methods HandleClient calls."""

    async def corral_called(self, principal: dict[str, Any], method: str, *arguments: Any) -> Any:
        """The result of one of its coroutine methods."""
        CURRENT.set(Principal.from_json(principal))
        with TRACES.span(f"{type(self).__name__}.{method}", kind="server"):
            return await getattr(self, method)(*arguments)

    async def corral_streamed(self, principal: dict[str, Any], method: str, *arguments: Any) -> AsyncIterator[Any]:
        """What one of its async generators yields."""
        CURRENT.set(Principal.from_json(principal))
        with TRACES.span(f"{type(self).__name__}.{method}", kind="server"):
            async with aclosing(getattr(self, method)(*arguments)) as items:
                async for item in items:
                    yield item
