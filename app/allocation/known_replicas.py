"""Which replicas there are and were of late on each node, so that none is overlooked when the node dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

KNOWN_S = 900.0
"""So long a replica counts that Serve tells of no more: it may be about to end, with requests under way."""


class KnownReplicas:
    """What Serve tells, kept for a while: a dead node's replicas it may leave out before we know of the death."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[tuple[str, str, int], float] = {}
        """(application, ip, port) -> when Serve last told of it."""

    def note(self, replicas: Mapping[str, Sequence[Any]]) -> None:
        """replicas: application -> (ip, port) of each that Serve tells of now."""
        now = self._clock()
        told = {(application, ip, port): now for application, found in replicas.items() for ip, port in found}
        self._told = {each: at for each, at in self._told.items() if now - at < KNOWN_S} | told

    def lost(self, address: str) -> list[tuple[str, int]]:
        """(application, port) of those on this node, which is dead: they are known no more."""
        found = [each for each in self._told if each[1] == address]
        self._told = {each: at for each, at in self._told.items() if each not in found}
        return [(application, port) for application, _, port in found]
