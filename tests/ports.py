"""Ports for what listens later: each is given once in a process, for two that draw at random may draw the same."""

from __future__ import annotations

from app.ports import free_ports

_given = set[int]()


def own_port() -> int:
    """Free by now, and given to nobody else by this process."""
    (port,) = free_ports(1, beside=_given)
    _given.add(port)
    return port
