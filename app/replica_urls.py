"""Where the replicas' own HTTP servers are, for requests that the gateway passes on."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlsplit

from deployments.config import ModelSpec

MAX_AGE_S = 0.5
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
Addresses = Mapping[str, Sequence[tuple[str, int]]]
"""Serve application -> (ip, port) of its replicas, or of a proxy where it has none."""


class ReplicaUrls:
    """Implements relay.ReplicaUrl: one of a base model's replicas at random, None where there is none.

    read: returns what Serve's controller knows. Where Serve listens on loopback, so do its replicas, though it tells
    the node's address for them.
    """

    def __init__(
        self,
        serve_url: str,
        specs: Sequence[ModelSpec],
        read: Callable[[], Awaitable[Addresses]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(serve_url)
        self._proxy_port = parts.port
        self._loopback = parts.hostname if parts.hostname in LOOPBACK else None
        self._application = {spec.id: spec.app_name for spec in specs}
        self._read, self._clock = read, clock
        self._lock = asyncio.Lock()
        self._seen: Addresses = {}
        self._seen_at = float("-inf")

    async def __call__(self, base: str) -> str | None:
        async with self._lock:
            if self._clock() - self._seen_at > MAX_AGE_S:
                self._seen, self._seen_at = await self._read(), self._clock()
        told = self._seen.get(self._application.get(base, ""), ())
        found = [(self._loopback or ip, port) for ip, port in told if port != self._proxy_port]
        if not found:
            return None
        host, port = random.choice(found)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
