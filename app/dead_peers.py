"""Connections to replicas on other nodes that end by themselves when the node is gone without a word."""

from __future__ import annotations

import socket

import httpx

IDLE_S, EVERY_S, TIMES = 5, 2, 3
"""A connection on which nothing comes is asked for a sign of life after so long, then so often."""


def transport(limits: httpx.Limits) -> httpx.AsyncHTTPTransport:
    """HTTP over connections that fail 11 s after their peer's node has died or was cut off, whoever waits on them.

    Else an answer is waited for until its own timeout, and an idle connection takes another request that nobody gets.
    """
    chosen = {
        "TCP_KEEPIDLE": IDLE_S, "TCP_KEEPINTVL": EVERY_S, "TCP_KEEPCNT": TIMES,
        "TCP_USER_TIMEOUT": 1000 * (IDLE_S + EVERY_S * TIMES),  # for what was sent and never acknowledged
    }  # fmt: skip
    options = [(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in chosen.items()
               if hasattr(socket, name)]  # fmt: skip
    return httpx.AsyncHTTPTransport(
        limits=limits, socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *options]
    )
