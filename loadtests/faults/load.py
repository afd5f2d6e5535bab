"""The steady load: users who ask, think and ask again, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp

from loadtests.client.exchange import open_session
from loadtests.faults.asks import Ask, Way

THINK_S = 0.2
REQUEST_S = 90.0
"""No request may hang; one that takes longer is a failure of its own."""


@dataclass(frozen=True)
class Outcome:
    """One request. Moments are of the monotonic clock; `failure` is empty if the answer was complete."""

    id: str
    ask: Ask
    began: float
    ended: float
    failure: str
    retry_after: str = ""


@dataclass
class Load:
    """Asks `url` as long as `going`; each of `users` is one that asks its requests in turn."""

    url: str
    users: Sequence[Sequence[Ask]]
    headers: Mapping[str, str] = field(default_factory=dict)
    think_s: float = THINK_S
    outcomes: list[Outcome] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic
    _under_way: dict[str, tuple[Ask, float]] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def going(self) -> Iterator[Load]:
        thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join(REQUEST_S + 10)

    def under_way(self) -> dict[str, tuple[Ask, float]]:
        """Id -> what was asked, and when, of the requests that have no end yet."""
        return dict(self._under_way)

    def answered_since(self, moment: float, part: str | None = None) -> list[Outcome]:
        """Complete answers to what was asked after this moment, of one part or all."""
        return [each for each in self.outcomes
                if not each.failure and each.began >= moment and part in (None, each.ask.part)]  # fmt: skip

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number, asks in enumerate(self.users):
                tasks.create_task(self._user(number, asks))

    async def _user(self, number: int, asks: Sequence[Ask]) -> None:
        """A user has connections of its own, kept as any client keeps them."""
        await asyncio.sleep(self.think_s * number / len(self.users))
        async with open_session(timeout_s=REQUEST_S) as session:
            turn = 0
            while not self._over.is_set():
                await self._ask(session, asks[turn % len(asks)], f"fault-{id(self):x}-{number}-{turn}")
                await asyncio.sleep(self.think_s)
                turn += 1

    async def _ask(self, session: aiohttp.ClientSession, ask: Ask, request_id: str) -> None:
        began = self.clock()
        self._under_way[request_id] = ask, began
        failure, retry_after = await _exchange(session, self.url, ask, {**self.headers, "x-request-id": request_id})
        del self._under_way[request_id]
        self.outcomes.append(Outcome(request_id, ask, began, self.clock(), failure, retry_after))


async def _exchange(session: aiohttp.ClientSession, url: str, ask: Ask, headers: Mapping[str, str]) -> tuple[str, str]:
    """What went wrong, worded for the table, and the Retry-After that was given."""
    method = "POST" if ask.body else "GET"
    text = ""
    answered = False
    try:
        async with session.request(method, url + ask.path, json=ask.body, headers=headers) as response:
            answered = True
            async for piece in response.content.iter_any():
                text += piece.decode(errors="replace")
            if response.status != 200:
                return f"{response.status} {_code(text)}", response.headers.get("retry-after", "")
            return ask.fault_of(text), ""
    except TimeoutError:
        return f"no end within {REQUEST_S:g} s", ""
    except aiohttp.ClientConnectorError:
        return "connection refused", ""
    except (aiohttp.ClientError, OSError) as error:
        return _broken(ask, text, answered, error), ""


def _broken(ask: Ask, text: str, answered: bool, error: Exception) -> str:
    """A connection that ended in the middle; its client sees that as an error, and perhaps an error event before."""
    if not answered:
        return "connection reset"
    if ask.way is Way.STREAM:
        return ("stream broken after an error event" if 'data: {"error"' in text else
                f"stream cut off ({type(error).__name__})")  # fmt: skip
    return "answer cut off"


def _code(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return f"without a code: {text[:60]!r}"
