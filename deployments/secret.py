"""The secret between the edge, the gateway and the replicas: who has it came through the edge, or is of the service.

It follows from Ray's token, which the service's processes can read and nobody else; the token does not follow from it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.principal import ANYBODY, HEADER, SECRET_HEADER, Principal

VARIABLE = "CORRAL_ASKS_FOR_SECRET"
"""Set to 1 in the environment of a service with an edge; elsewhere, as under `serve deploy`, nothing is asked for."""
KEEPER_VARIABLE = "CORRAL_KEEPER"
"""Where it is told what a request took: the URL of the service's keeper."""
NOT_FROM_EDGE = "This port is the service's own; ask at its address."
HEALTH = "/-/healthz"
"""HAProxy's checks bring no secret."""
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"  # noqa: S105
PURPOSE = b"corral: between edge, gateway and replicas"
SECRET_NAME, PRINCIPAL_NAME = SECRET_HEADER.encode(), HEADER.encode()
FOUND = "corral.principal"
"""Of an ASGI scope: what the door found, None for nobody."""


def secret_of(token: Path) -> str:
    """The secret of the service with this token. Raises OSError, also for an empty file."""
    if not (text := token.read_bytes().strip()):
        raise OSError(f"the token in {token} is empty")
    return hmac.new(text, PURPOSE, hashlib.sha256).hexdigest()


def secret_headers(token: Path) -> dict[str, str]:
    """What a process of the service sends to the gateway; empty where there is no token yet, or no more."""
    try:
        return {SECRET_HEADER: secret_of(token)}
    except OSError:
        return {}


def own_secret() -> str | None:
    """That of the service which this process belongs to; None if none is asked for."""
    if os.environ.get(VARIABLE) != "1":
        return None
    return secret_of(Path(os.environ[TOKEN_PATH]))


class Door:
    """Lets in who has the secret, and finds out on whose behalf they ask.

    It looks at a request once: what it found is kept in the scope, which no client writes, for who asks further in.
    """

    def __init__(self, secret: str | None) -> None:
        self._secret = secret.encode() if secret else None

    def principal(self, scope: Scope) -> Principal | None:
        """None: this one did not come through the edge, and is not the service itself."""
        if self._secret is None:
            return ANYBODY
        if FOUND not in scope:
            scope[FOUND] = _principal(scope, self._secret)
        found: Principal | None = scope[FOUND]
        return found


def _principal(scope: Scope, secret: bytes) -> Principal | None:
    given, told = b"", None
    for name, value in scope["headers"]:
        if name == SECRET_NAME:
            given = value
        elif name == PRINCIPAL_NAME:
            told = value
    if not hmac.compare_digest(given, secret):
        return None
    if told is None:  # the service itself
        return ANYBODY
    try:
        return Principal.from_header(told)
    except (ValueError, TypeError, KeyError):
        return None


class OnlyFromInside:
    """Pure-ASGI middleware: refuses before anything else looks at a request. open_path: for who has no secret."""

    def __init__(self, app: ASGIApp, door: Door, open_path: str | None = None) -> None:
        self.app, self._door, self._open = app, door, open_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "lifespan"
            or (self._open and scope.get("path") == self._open)
            or self._door.principal(scope)
        ):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse(f"{NOT_FROM_EDGE}\n", 401)(scope, receive, send)
