"""How this person's commands reach a Corral address: where it is, the key for it, and what its TLS is checked with."""

from __future__ import annotations

import ssl
from typing import TypedDict

import httpx

from app.access.mine import key_headers, trusted
from app.launch import NotRunningError
from app.state import read_state

CONNECT_S = 5


class Reach(TypedDict):
    """Options of httpx.Client and httpx.AsyncClient."""

    base_url: str
    headers: dict[str, str]
    verify: ssl.SSLContext | bool
    timeout: httpx.Timeout
    trust_env: bool


def reach(name: str, url: str | None, silence_s: float) -> Reach:
    """To `url`, or to this person's own service, which may say nothing for so long. Raises NotRunningError."""
    return {
        "base_url": base_url(name, url),
        "headers": key_headers(name, url),
        "verify": trusted(name, url),
        "timeout": httpx.Timeout(silence_s, connect=CONNECT_S),
        "trust_env": url is not None,  # to one's own service no proxy is between
    }


def base_url(name: str, url: str | None) -> str:
    """Where to talk to `url`, or to this person's own service. Raises NotRunningError."""
    if url is None:
        state = read_state(name)
        if state is None:
            raise NotRunningError(f"no service {name!r} runs here; `corral up` starts one, --url names another")
        url = state.address
    return url.rstrip("/").removesuffix("/v1")
