"""Bulk items against a key's quota: reserved before a call begins, given back as they are answered.

With them go the tokens that they may take; engines tell what they did take.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import httpx

from app.access.quota import TOO_MANY_TOKENS
from deployments.errors import BadRequest, OverQuota, ServingError, Unavailable
from deployments.principal import CURRENT, SECRET_HEADER

log = logging.getLogger("corral.gateway")
TELL_EVERY = 256
"""Answered items are told in so many at once."""
TIMEOUT_S = 5
PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
NOBODY = "Nobody can say now whether this key may ask; try again."


class ItemQuota(Protocol):
    """Of the key of the request at hand."""

    async def reserve(self, items: int, tokens: int) -> None:
        """tokens: of all items together. Raises OverQuota, or BadRequest where it could never be, or Unavailable."""
        ...

    async def done(self, items: int) -> None:
        """So many more are answered. What is left at the end of the request is given back by itself."""
        ...


class NoItemQuota:
    """Where nobody counts."""

    async def reserve(self, items: int, tokens: int) -> None:
        return None

    async def done(self, items: int) -> None:
        return None


class KeeperItemQuota:
    """Asks the keeper at `url`."""

    def __init__(self, url: str, secret: str, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._pauses_s = pauses_s
        headers = {SECRET_HEADER: secret}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    async def reserve(self, items: int, tokens: int) -> None:
        who = CURRENT.get()
        try:
            answer = await self._asked({"request": who.request, "key": who.key, "items": items, "tokens": tokens})
        except httpx.HTTPError as error:
            raise Unavailable(NOBODY, "starting") from error
        if answer.status_code != httpx.codes.OK:
            raise _refusal(answer)

    async def _asked(self, wanted: Mapping[str, Any]) -> httpx.Response:
        """Again and again for some seconds: one that was killed starts again, and has forgotten what it was asked."""
        for pause_s in self._pauses_s:
            with suppress(httpx.NetworkError, httpx.RemoteProtocolError):
                return await self._client.post("/items", json=wanted)
            await asyncio.sleep(pause_s)
        return await self._client.post("/items", json=wanted)

    async def done(self, items: int) -> None:
        who = CURRENT.get()
        try:
            await self._client.post("/items/done", json={"request": who.request, "key": who.key, "count": items})
        except httpx.HTTPError as error:
            log.warning("%d answered bulk items could not be told: %r", items, error)


def _refusal(answer: httpx.Response) -> ServingError:
    if answer.status_code not in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.BAD_REQUEST):
        return Unavailable(NOBODY, "starting")
    error = answer.json()["error"]
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return OverQuota(error["message"], int(answer.headers.get("retry-after", 1)), error["code"])
    never = BadRequest(error["message"], "items")
    if error["code"] == TOO_MANY_TOKENS:
        never.reason = TOO_MANY_TOKENS
    return never


class Answered:
    """Counts the answered items of one call, and tells of them now and then."""

    def __init__(self, quota: ItemQuota) -> None:
        self._quota, self._untold = quota, 0

    async def one(self) -> None:
        self._untold += 1
        if self._untold >= TELL_EVERY:
            await self.tell()

    async def tell(self) -> None:
        if self._untold:
            untold, self._untold = self._untold, 0
            await self._quota.done(untold)
