"""The door to HTTP: one POST, and what became of it as a Failure instead of an exception."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

import aiohttp
from yarl import URL

from loadtests.records import Fault

LONGEST_DETAIL = 200
LONGEST_REASON = 4096
"""Bytes of an error's body that are read."""
KEEP_ALIVE_S = 4
"""Shorter than uvicorn's 5 s: a connection that the server is about to close is not used again."""
FILES = 65_536
KEY: ContextVar[str | None] = ContextVar("KEY", default=None)
HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "corral-bench"}


class Failure(NamedTuple):
    """Why a request gave no answer, with at most 200 characters of why."""

    fault: Fault
    detail: str


def failure(fault: Fault, detail: object) -> Failure:
    return Failure(fault, " ".join(hidden(str(detail)).split())[:LONGEST_DETAIL])


@contextlib.contextmanager
def hiding(key: str | None) -> Iterator[None]:
    """Within it, what an endpoint says of its key is told without the key."""
    token = KEY.set(key)
    try:
        yield
    finally:
        KEY.reset(token)


def hidden(text: str) -> str:
    """The text without the key that is sent now. Before it is cut to a length: half a key is one, too."""
    key = KEY.get()
    return text.replace(key, "***") if key else text


Read = Callable[[aiohttp.ClientResponse], Awaitable[Failure | None]]
"""Reads the body of a 200."""


def trusting(certificate: str) -> ssl.SSLContext | bool:
    """For aiohttp: a file with a certificate, which then is trusted alone; else the authorities decide."""
    return ssl.create_default_context(cafile=certificate) if certificate and Path(certificate).is_file() else True


def open_session(key: str | None = None, timeout_s: float = 600, certificate: str = "") -> aiohttp.ClientSession:
    """Connections without a bound but the process's open files, kept alive; `timeout_s` is of one whole request."""
    connector = aiohttp.TCPConnector(
        limit=_connections(), keepalive_timeout=KEEP_ALIVE_S, ssl=trusting(certificate)
    )  # fmt: skip
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        headers=HEADERS | ({"Authorization": f"Bearer {key}"} if key else {}),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def exchange(
    session: aiohttp.ClientSession, url: URL, body: bytes, read: Read, cut: Callable[[], Failure | None] = lambda: None
) -> Failure | None:
    """POST, and `read` what comes of it. None: all went well. Raises nothing for what an endpoint does.

    `cut` tells, once it is cancelled, why it was cut off; if it tells nothing, somebody interrupts.
    """
    answered = False
    try:
        async with session.post(url, data=body, allow_redirects=False) as response:
            answered = True
            return await (read(response) if response.status == 200 else _refused(response))
    except asyncio.CancelledError:
        if (because := cut()) is None:
            raise
        return because
    except TimeoutError:
        return failure(Fault.TIMEOUT, f"no end of the answer within {session.timeout.total:g} s")
    except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
        fault = Fault.BROKEN_STREAM if answered else Fault.UNREADABLE
        return failure(fault, f"{type(error).__name__}: {error}")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        fault = Fault.BROKEN_STREAM if answered else Fault.CONNECTION
        return failure(fault, str(error) or type(error).__name__)


async def _refused(response: aiohttp.ClientResponse) -> Failure:
    """A status other than 200."""
    status = response.status
    return failure(_fault_of(status, "Retry-After" in response.headers), f"{status}: {await _reason(response)}")


def _fault_of(status: int, may_retry: bool) -> Fault:
    if status == 429 or (status == 503 and may_retry):
        return Fault.OVERLOAD
    if 400 <= status < 500:
        return Fault.REFUSED
    return Fault.SERVER if status >= 500 else Fault.UNREADABLE


async def _reason(response: aiohttp.ClientResponse) -> str:
    """What the body says, or the status in words if it cannot be read."""
    try:
        raw = await response.content.read(LONGEST_REASON)
    except (aiohttp.ClientError, OSError, TimeoutError):
        raw = b""
    return message_of(raw) or response.reason or "no reason given"


def message_of(raw: bytes) -> str:
    """The message of an error body: OpenAI's, FastAPI's, or the text itself."""
    text = raw.decode(errors="replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(key):
            body = body[key]
    return body if isinstance(body, str) else json.dumps(body)


def _connections() -> int:
    """As many as this process may open, less some files of its own; its soft limit is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft == resource.RLIM_INFINITY:
        return FILES
    if soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return max(16, soft - 128)
