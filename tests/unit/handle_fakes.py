"""A DeploymentHandle whose calls go by a script, as Serve's own would: there is none without a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.serve.exceptions import DeploymentUnavailableError, RequestCancelledError

HANG = "hang"
"""Nothing more comes."""


@dataclass(eq=False)
class Response:
    """Of one call: what comes one after the other; an exception is raised in its place."""

    script: Sequence[Any]
    cancelled: int = 0
    _cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def cancel(self) -> None:
        self.cancelled += 1
        self._cancelled.set()

    def __await__(self) -> Generator[Any, None, Any]:
        return anext(aiter(self)).__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        for told in self.script:
            await asyncio.sleep(0)
            if told == HANG:
                await self._cancelled.wait()
                raise RequestCancelledError("of the fake")
            if isinstance(told, Exception):
                raise told
            yield told


@dataclass
class Handle:
    """calls: a script for each call. replicas: what `broadcast` gets of each; an exception of its own; () for none."""

    calls: list[Sequence[Any]]
    replicas: Sequence[Any] | Exception = (0,)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    probes: int = 0

    def options(self, **_: Any) -> Handle:
        return self

    def __getattr__(self, method: str) -> Any:
        return _Method(self, method)

    def broadcast(self, method: str) -> Any:
        self.probes += 1
        return _Broadcast(self.replicas)


@dataclass
class _Method:
    handle: Handle
    name: str

    def remote(self, argument: Any) -> Response:
        self.handle.asked.append((self.name, argument))
        response = Response(self.handle.calls[len(self.handle.asked) - 1])
        self.handle.responses.append(response)
        return response


@dataclass
class _Broadcast:
    replicas: Sequence[Any] | Exception

    async def results_async(self, timeout_s: float, return_exceptions: bool) -> list[Any]:
        assert timeout_s > 0
        assert return_exceptions
        if isinstance(self.replicas, Exception):
            raise self.replicas
        if not self.replicas:
            raise DeploymentUnavailableError("m")
        return list(self.replicas)
