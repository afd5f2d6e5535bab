"""A client that sends a request and hangs up before it has its answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.waiting import PATIENCE_S


@contextmanager
def asking(url: str, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """Send the request; the connection is closed when the block ends."""
    address = urlsplit(url)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-type: application/json\r\n"
    head += "connection: close\r\n"
    with socket.create_connection((address.hostname, address.port), PATIENCE_S) as connection:
        connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        yield connection


def read_until(connection: socket.socket, mark: bytes, times: int) -> bytes:
    """Read until `mark` has come so many times."""
    received = b""
    while received.count(mark) < times:
        piece = connection.recv(65_536)
        assert piece, f"the connection ended after {received[-500:]!r}"
        received += piece
    return received


def read_all(connection: socket.socket) -> bytes:
    """Read until the other side closes."""
    received = b""
    while piece := connection.recv(65_536):
        received += piece
    return received
