"""One streamed chat request, timed event by event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
from yarl import URL

from loadtests.client.dialect import dialect_of
from loadtests.client.events import Reading
from loadtests.client.exchange import Failure, exchange
from loadtests.client.prompts import Prompt
from loadtests.records import Point, Sample, Side

PATH = "/v1/chat/completions"
CLOSING_S = 1
"""After [DONE] the body should end, and its connection be free; a server that forgets it costs no more than this."""


class ChatAsker:
    """Asks one model of one endpoint. `now`: seconds since the measurement began."""

    notices: tuple[str, ...] = ()

    def __init__(
        self, session: aiohttp.ClientSession, side: Side, point: Point, temperature: float, now: Callable[[], float]
    ) -> None:
        self._session, self._url, self._now = session, URL(side.url + PATH), now
        self._model, self._temperature = point.model, temperature
        self._dialect = dialect_of(side, point.model)
        self._under_way: set[Reading] = set()
        self.cut: Failure | None = None

    @property
    def silent(self) -> int:
        """Requests under way that have no text yet."""
        return sum(1 for each in self._under_way if not each.times)

    def body(self, prompt: Prompt) -> bytes:
        """What is sent for a prompt; made ahead of time, so that making it is not measured."""
        return self._dialect.chat(self._model, prompt.text, prompt.output_tokens, self._temperature)

    async def ask(self, body: bytes, due_s: float | None = None) -> Sample:
        """Ask once. `due_s`: when it should have been sent, if not now. Raises nothing for what an endpoint does.

        An answer ends with its last text; a fault when it showed.
        """
        reading, began = Reading(), self._now()
        self._under_way.add(reading)
        try:
            failed = await exchange(
                self._session, self._url, body, lambda response: self._read(response, reading), lambda: self.cut
            )
        finally:
            self._under_way.discard(reading)
        failed = reading.failure if failed is None or reading.conclusive else failed
        return Sample(
            due_s=began if due_s is None else due_s,
            began_s=began,
            ended_s=reading.times[-1] if reading.times and failed is None else self._now(),
            times_s=tuple(reading.times),
            input_tokens=reading.input_tokens,
            output_tokens=reading.output_tokens,
            fault=failed.fault if failed else None,
            detail=failed.detail if failed else "",
        )

    async def ask_all(self, body: bytes, due_s: float | None = None) -> list[Sample]:
        return [await self.ask(body, due_s)]

    async def _read(self, response: aiohttp.ClientResponse, reading: Reading) -> Failure | None:
        now, feed, pieces = self._now, reading.feed, response.content
        while piece := await pieces.readany():
            feed(piece, now())
            if reading.done:
                await _drain(response)
                break
        return None


async def _drain(response: aiohttp.ClientResponse) -> None:
    """To the end of the body, for only then the connection is used again."""
    try:
        async with asyncio.timeout(CLOSING_S):
            while await response.content.readany():
                pass
    except (TimeoutError, aiohttp.ClientError, OSError):
        return
