"""Where the replicas' own HTTP servers are, for requests that the gateway passes on."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from deployments.config import ModelSpec

log = logging.getLogger("corral.gateway")
MAX_AGE_S = 0.5
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
Addresses = Mapping[str, Sequence[tuple[str, int]]]
"""Serve application -> (ip, port) of its replicas, or of a proxy where it has none."""


class ReplicaUrls:
    """Implements relay.ReplicaUrl: one of a base model's replicas at random, None where there is none.

    serve: the host and port that Serve listens on; where that is loopback, replicas listen there too, though Serve
    tells the node's address for them. read: returns what Serve's controller knows.
    """

    def __init__(
        self,
        serve: tuple[str, int],
        specs: Sequence[ModelSpec],
        read: Callable[[], Awaitable[Addresses]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        host, self._proxy_port = serve
        self._loopback = host if host in LOOPBACK else None
        self._application = {spec.id: spec.app_name for spec in specs}
        self._read, self._clock = read, clock
        self._lock = asyncio.Lock()
        self._seen: Addresses = {}
        self._seen_at = float("-inf")

    async def __call__(self, base: str, beside: str | None = None) -> str | None:
        async with self._lock:
            if self._clock() - self._seen_at > MAX_AGE_S:
                self._seen, self._seen_at = await self._told(), self._clock()
        told = self._seen.get(self._application.get(base, ""), ())
        found = [url(self._loopback or ip, port) for ip, port in told if port != self._proxy_port]
        others = [each for each in found if each != beside]
        return random.choice(others) if others else None

    async def _told(self) -> Addresses:
        try:
            return await self._read()
        except Exception as error:  # Serve's controller starts again, or Ray does
            log.warning("nothing is known of the replicas: %r", error)
            return {}


def url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
