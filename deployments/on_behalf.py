"""Calls between deployments carry along on whose behalf they are made: the side that is called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from deployments.principal import ANYBODY, CURRENT, FIELD, Principal
from deployments.tracing import TRACES


def principal_of(body: Mapping[str, Any]) -> Principal:
    """For whom a call is made whose body says so; ANYBODY where it does not."""
    return Principal.from_json(told) if (told := body.get(FIELD)) else ANYBODY


def assumed(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body without for whom it is, who is the principal at hand from now on. The one given stays as it is: it may
    be asked again.
    """
    if body.get(FIELD):
        CURRENT.set(principal_of(body))
    return {name: value for name, value in body.items() if name != FIELD}


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
