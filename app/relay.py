"""Passes a request on to a model's own vLLM app and its answer back, byte for byte, as it comes."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import NoSuchPath, problem_of
from app.streaming import SSE, event
from deployments.errors import BadRequest, EngineFailed, Overloaded, ServingError, Unavailable
from deployments.principal import CURRENT

log = logging.getLogger("corral.gateway")
HOP_BY_HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
PROXY = frozenset({"proxy-authenticate", "proxy-authorization", "proxy-connection"})
NOT_FORWARDED = HOP_BY_HOP | PROXY | {"host", "content-length", "expect"}
NOT_RETURNED = HOP_BY_HOP | PROXY | {"date", "server"}
NOTHING_DONE = 503
"""A replica's status for what it has not begun."""


class ReplicaUrl(Protocol):
    """The URL of one of a base model's replicas' own servers, another than `beside`, if one is known."""

    async def __call__(self, base: str, beside: str | None = None) -> str | None: ...


async def no_replica_url(base: str, beside: str | None = None) -> str | None:
    return None


@dataclass(frozen=True)
class Upstream:
    """Where requests are passed on to: a replica itself, else the client's base URL, which is Serve's.

    routes: base model -> where Serve has its app; /models/<id> if it is not among them.
    """

    client: httpx.AsyncClient
    replica_url: ReplicaUrl = no_replica_url
    routes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outgoing:
    """A request to pass on. `headers` are the client's, without those of its own connection."""

    method: str
    path: str
    query: bytes
    headers: Sequence[tuple[str, str]]
    body: bytes

    def to(self, client: httpx.AsyncClient, root: str, timeout: httpx.Timeout) -> httpx.Request:
        url = httpx.URL(f"{root}{self.path}", query=self.query or None)
        return client.build_request(self.method, url, headers=self.headers, content=self.body, timeout=timeout)


def outgoing_headers(headers: Headers, request_id: str) -> list[tuple[str, str]]:
    """End-to-end headers of a request, its id and trace. Compression stays between the client and the model."""
    dropped = NOT_FORWARDED | _named_by_connection(headers) | {"x-request-id", "traceparent"}
    kept = [(name, value) for name, value in headers.items() if name not in dropped]
    encoding = [] if "accept-encoding" in headers else [("accept-encoding", "identity")]
    traced = [("traceparent", trace)] if (trace := CURRENT.get().trace) else []
    return [*kept, *encoding, *traced, ("x-request-id", request_id)]


class Relay(Response):
    """The answer of the first of `bases` (model ids) that knows the path; 404 from all is a NoSuchPath.

    What breaks before the answer starts is raised as a ServingError. After that, an SSE stream ends with an error
    event and without [DONE], and any other answer is cut off.
    """

    def __init__(self, upstream: Upstream, request: Outgoing, bases: Sequence[str], timeout: httpx.Timeout):
        super().__init__()
        self._upstream, self._request, self._bases, self._timeout = upstream, request, bases, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        alone, failure = len(self._bases) == 1, None
        for base in self._bases:
            try:
                if await self._try(base, send, skip_404=not alone):
                    return
            except ServingError as error:
                failure = failure or error
        raise failure or NoSuchPath(f"No model here knows {self._request.path[:128]!r}.")

    async def _try(self, base: str, send: Send, *, skip_404: bool) -> bool:
        try:
            answer = await self._answer(base)
        except httpx.HTTPError as error:
            raise _unreachable(base, error) from error
        try:
            if skip_404 and answer.status_code == 404:
                return False
            await _check_spoken_by_model(answer, base)
            await _pass_back(answer, base, send)
        finally:
            await answer.aclose()
        return True

    async def _answer(self, base: str) -> httpx.Response:
        """Of a replica itself, for Serve's proxy may overlook that a client leaves; of the proxy where none is up."""
        url = await self._upstream.replica_url(base)
        if url is None:
            return await self._send("", base)
        try:
            answer = await self._send(url, base)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            return await self._send("", base)
        except (httpx.RemoteProtocolError, httpx.ReadError):
            if other := await self._another(base, url):
                return await other
            raise
        if answer.status_code == NOTHING_DONE and (other := await self._another(base, url)):
            await answer.aclose()
            return await other
        return answer

    async def _another(self, base: str, first: str) -> Awaitable[httpx.Response] | None:
        """The same asked once more, of another replica than `first`, as the edge does it."""
        url = await self._upstream.replica_url(base, beside=first)
        return self._send(url, base) if url else None

    async def _send(self, root: str, base: str) -> httpx.Response:
        client = self._upstream.client
        root += self._upstream.routes.get(base, f"/models/{base}")
        return await client.send(self._request.to(client, root, self._timeout), stream=True)


async def _pass_back(answer: httpx.Response, base: str, send: Send) -> None:
    dropped = NOT_RETURNED | _named_by_connection(Headers(raw=_lower(answer.headers.raw)))
    headers = [(name, value) for name, value in _lower(answer.headers.raw) if name.decode("latin-1") not in dropped]
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    try:
        async for chunk in answer.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except httpx.HTTPError as error:
        if not answer.headers.get("content-type", "").startswith(SSE):
            raise
        log.warning("the stream of %s broke off: %r", base, error)
        failed = problem_of(EngineFailed(f"The model {base!r} broke off while answering."))
        await send({"type": "http.response.body", "body": b"\n\n" + event(failed.body()), "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _check_spoken_by_model(answer: httpx.Response, base: str) -> None:
    """vLLM's errors are JSON. An error that is not comes from a proxy or from Serve on the way: raise what it means."""
    if answer.status_code < 400 or "json" in answer.headers.get("content-type", ""):
        return
    await answer.aread()
    log.warning("status %d from before the model %s", answer.status_code, base)
    raise _meaning(answer, base)


def _meaning(answer: httpx.Response, base: str) -> ServingError:
    status = answer.status_code
    if status == 429:
        wait = answer.headers.get("retry-after", "")
        return Overloaded(f"The queue of {base!r} is full.", int(wait) if wait.isdecimal() else 5)
    if status in (404, 502, 503, 504):
        return Unavailable(f"The model {base!r} does not answer yet or no longer (status {status}).", "starting")
    if status < 500:
        return BadRequest(f"The model {base!r} refused the request with status {status}.")
    return EngineFailed(f"The model {base!r} failed on this request (status {status}).")


def _unreachable(base: str, error: httpx.HTTPError) -> ServingError:
    log.warning("cannot pass a request on to %s: %r", base, error)
    if isinstance(error, httpx.PoolTimeout):
        return Overloaded("The gateway has too many requests open.", 1)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Unavailable(f"The model {base!r} cannot be reached.", "unreachable")
    return EngineFailed(f"The model {base!r} broke off before it answered.")


def _named_by_connection(headers: Headers) -> set[str]:
    values = ",".join(headers.getlist("connection"))
    return {name.strip().lower() for name in values.split(",")} - {""}


def _lower(raw: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in raw]


def model_named(body: dict[str, Any]) -> str:
    """The `model` of a request's body. Raises BadRequest."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        wrong = "model: Field required" if model is None else f"model: must be a string, not {json.dumps(model)[:32]}"
        raise BadRequest(wrong, "model")
    return model
