"""Usage reports: what the requests of this process used, sent on in batches, and kept until somebody has them.

A report never waits and never fails a request. While nobody takes them, single requests become sums of their keys:
whose tokens they are is known after any outage, within bounded memory.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import uuid
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx

from deployments.metering import Outcome, Used
from deployments.principal import SECRET_HEADER

logger = logging.getLogger(__name__)

BATCH_EVENTS = 1000
"""The most in one batch: about 150 kB, written in some milliseconds that the tokens of others wait for."""
LONGEST_WAIT_S = 10.0
TIMEOUT_S = 5.0
SEVERITY: tuple[Outcome, ...] = ("done", "cancelled", "failed")

Event = dict[str, str | int]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class Batch:
    """Events that are sent together, again under the same id if it is unknown whether they arrived."""

    id: str
    events: tuple[Event, ...]

    @property
    def tokens(self) -> int:
        return sum(int(event["prompt_tokens"]) + int(event["completion_tokens"]) for event in self.events)


Send = Callable[[Batch], Awaitable[None]]
"""Returns when the receiver has the batch; raises if it may not have it."""


class UsageReporter:
    """Collects for one event loop. most: events held before requests become sums; those being sent come on top."""

    def __init__(
        self,
        send: Send,
        interval_s: float = 0.2,
        most: int = 10_000,
        sleep: Sleep = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._send, self._interval_s, self._sleep, self._jitter = send, interval_s, sleep, jitter
        self._held = _Held(most)
        self._batch: Batch | None = None
        """The one being sent. It stays as it is: the receiver may have it already."""
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def unsent(self) -> int:
        """Tokens that nobody has heard of for certain."""
        return self._held.tokens + (self._batch.tokens if self._batch else 0)

    def report(self, used: Used) -> None:
        """Keep it, and have it sent soon."""
        self._held.add(used)
        self._some.set()
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._run(), context=Context())  # not the context of some request

    async def close(self) -> None:
        """Try once to send what is left. What comes later is kept for another close."""
        self._closed = True
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        while batch := self._next():
            if error := await self._refusal(batch):
                left = batch.tokens + self._held.tokens
                logger.error("the usage of %d tokens is lost with this process: %s", left, _told(error))
                return

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await self._sleep(self._interval_s)
            while batch := self._next():
                await self._deliver(batch)
                await self._sleep(self._interval_s)
            self._some.clear()

    def _next(self) -> Batch | None:
        if self._batch is None and (events := self._held.take(BATCH_EVENTS)):
            self._batch = Batch(uuid.uuid4().hex, events)
        return self._batch

    async def _deliver(self, batch: Batch) -> None:
        """Send it until that succeeds."""
        for attempt in itertools.count():
            error = await self._refusal(batch)
            if error is None:
                if attempt:
                    logger.info("usage is reported again, after %d attempts that failed", attempt)
                return
            if attempt == 0:
                logger.warning("usage is kept until it can be reported: %s", _told(error))
            await self._sleep(self._wait_s(attempt))

    async def _refusal(self, batch: Batch) -> Exception | None:
        """Send it once; why it may not have arrived."""
        try:
            await self._send(batch)
        except Exception as error:
            return error
        self._batch = None
        return None

    def _wait_s(self, attempt: int) -> float:
        """Doubling, and up to half more: all replicas wait for the same receiver."""
        return min(self._interval_s * 2.0 ** min(attempt, 16), LONGEST_WAIT_S) * (1 + self._jitter() / 2)


class _Slot(NamedTuple):
    request: str
    key: str
    group: str
    model: str


@dataclass
class _Sum:
    """Tokens of one request, or of many. outcome: the worst of theirs."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    outcome: Outcome = "done"

    def add(self, prompt_tokens: int, completion_tokens: int, outcome: Outcome) -> None:
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.outcome = max(self.outcome, outcome, key=SEVERITY.index)


class _Held:
    """What waits to be sent, from the oldest on. `most` of them, unless there are more keys than that."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._sums: dict[_Slot, _Sum] = {}
        """Without requests: older than all others."""
        self._requests: dict[_Slot, _Sum] = {}

    @property
    def tokens(self) -> int:
        sums = itertools.chain(self._sums.values(), self._requests.values())
        return sum(each.prompt_tokens + each.completion_tokens for each in sums)

    def add(self, used: Used) -> None:
        who = used.principal
        slot = _Slot(who.request, who.key, who.group, used.model)
        self._requests.setdefault(slot, _Sum()).add(used.prompt_tokens, used.completion_tokens, used.outcome)
        if len(self._requests) + len(self._sums) > self._most:
            self._forget_requests()

    def take(self, count: int) -> tuple[Event, ...]:
        """The oldest, at most so many. They are held no longer."""
        taken: list[Event] = []
        for held in (self._sums, self._requests):
            for slot in list(itertools.islice(held, count - len(taken))):
                taken.append(_event(slot, held.pop(slot)))
        return tuple(taken)

    def _forget_requests(self) -> None:
        """The older half at once, so that it is seldom."""
        for slot in list(itertools.islice(self._requests, (len(self._requests) + 1) // 2)):
            gone = self._requests.pop(slot)
            kept = self._sums.setdefault(slot._replace(request=""), _Sum())
            kept.add(gone.prompt_tokens, gone.completion_tokens, gone.outcome)


def _event(slot: _Slot, used: _Sum) -> Event:
    return {
        **slot._asdict(),
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "outcome": used.outcome,
    }


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


class HttpSender:
    """Posts batches to `<url>/used`. client: is closed with it."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self._url, self._client = f"{url.rstrip('/')}/used", client

    async def __call__(self, batch: Batch) -> None:
        body: dict[str, Any] = {"batch": batch.id, "events": batch.events}
        response = await self._client.post(self._url, json=body)
        response.raise_for_status()

    async def close(self) -> None:
        await self._client.aclose()


def http_sender(url: str, secret: str) -> HttpSender:
    """For the service's own receiver at `url`, which asks for its secret."""
    return HttpSender(url, httpx.AsyncClient(headers={SECRET_HEADER: secret}, timeout=TIMEOUT_S, trust_env=False))
