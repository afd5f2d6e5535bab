"""What this person's commands send and trust: $CORRAL_API_KEY, else the first key of their own service."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from app.state import ServiceState, read_state

VARIABLE = "CORRAL_API_KEY"


def own_key(name: str, url: str | None) -> str | None:
    """The key for the service at `url`, or for one's own of that name; None if there is none."""
    if key := os.environ.get(VARIABLE):
        return key
    state = _own_service(name, url)
    try:
        return Path(state.key_file).read_text().strip() or None if state and state.key_file else None
    except OSError:
        return None


def key_headers(name: str, url: str | None) -> dict[str, str]:
    """What is sent with each request; empty without a key."""
    key = own_key(name, url)
    return {"authorization": f"Bearer {key}"} if key else {}


def trusted(name: str, url: str | None) -> ssl.SSLContext | bool:
    """What an https address is checked with: the certificate that one's own service made, else the authorities."""
    certificate = own_certificate(name, url)
    return ssl.create_default_context(cafile=certificate) if certificate and Path(certificate).is_file() else True


def own_certificate(name: str, url: str | None) -> str:
    """The file of the certificate that one's own service made; empty if it made none."""
    state = _own_service(name, url)
    return state.certificate if state else ""


def _own_service(name: str, url: str | None) -> ServiceState | None:
    return read_state(name) if url is None else None
