"""Free TCP ports, and whether one is taken."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection
from contextlib import ExitStack

BELOW_EPHEMERAL = range(20000, 30000)
LONE_PORTS = range(30000, 32768)
"""Single ports. An ephemeral one may go to anybody's outgoing connection before its server has bound it."""
NODE_BLOCKS = range(12000, 19920, 240)
"""Where a node's blocks of ports begin, apart from BELOW_EPHEMERAL, which replicas listen on."""


def free_ports(count: int, host: str = "127.0.0.1", beside: Collection[int] = ()) -> list[int]:
    """Distinct free ports, all held open until the last is found so that none comes twice. Raises OSError.

    beside: ports that others will take, and have not yet.
    """
    found: list[int] = []
    why: OSError | None = None
    with ExitStack() as held:
        for port in random.sample(LONE_PORTS, len(LONE_PORTS)):
            if port in beside:
                continue
            try:
                held.enter_context(socket.socket()).bind((host, port))
            except OSError as error:
                why = error
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"no {count} free ports of {host} in {LONE_PORTS}") from why


def free_range(width: int, host: str = "127.0.0.1", beside: Collection[int] = ()) -> int:
    """First port of `width` consecutive free ones below the ephemeral range, none of them one of `beside`."""
    starts = range(BELOW_EPHEMERAL.start, BELOW_EPHEMERAL.stop - width, width)
    for first in random.sample(starts, len(starts)):  # two that start at once should not choose alike
        if not any(port in beside or taken(port, host) for port in range(first, first + width)):
            return first
    raise OSError(f"no {width} consecutive free ports in {BELOW_EPHEMERAL}")


def taken(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something listens on (or holds) that port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


class PortBlock:
    """240 ports of one job on this node, all free when they were taken, and no other job's while this process lives.

    Jobs keep off each other by an abstract socket, which the kernel takes away with its process whoever kills that.
    """

    def __init__(self, first: int, claim: socket.socket) -> None:
        self.first, self._claim = first, claim

    @classmethod
    def reserve(cls) -> PortBlock:
        """Raises OSError if every block has a port that somebody holds."""
        for first in random.sample(NODE_BLOCKS, len(NODE_BLOCKS)):
            if claim := _claim(first):
                if not any(taken(port, "") for port in range(first, first + NODE_BLOCKS.step)):
                    return cls(first, claim)
                claim.close()
        raise OSError(f"no {NODE_BLOCKS.step} consecutive free ports from {NODE_BLOCKS[0]} on")

    def release(self) -> None:
        self._claim.close()


def _claim(first: int) -> socket.socket | None:
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0corral-ports-{first}")
    except OSError:
        claim.close()
        return None
    return claim
