"""One streamed chat request with a key, and the users who ask again and again."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp

from loadtests.client.events import Reading

WORDS = ("cedar", "birch", "willow", "node", "time", "limit", "queue", "hours")
OK, REFUSED, NOTHING = 200, 429, 0
PAUSE_S = 0.5
"""Before who was refused asks again."""


class Answer(NamedTuple):
    """Of one request; times are of the monotonic clock, which all processes share. status 0: nothing came.

    first_s: 0 without any text. complete: the stream's last word came. code: OpenAI's, else why nothing came.
    """

    due_s: float
    sent_s: float
    first_s: float
    ended_s: float
    status: int
    complete: bool = False
    code: str = ""
    key: str = ""

    @property
    def good(self) -> bool:
        return self.status == OK and self.complete

    @property
    def whole_ms(self) -> float:
        return 1000 * (self.ended_s - self.sent_s)

    @property
    def first_ms(self) -> float:
        return 1000 * (self.first_s - self.sent_s)

    @property
    def late_ms(self) -> float:
        """Behind the schedule."""
        return 1000 * (self.sent_s - self.due_s)


@dataclass(frozen=True)
class Request:
    """What is asked: a prompt of so many words, for an answer of exactly so many tokens."""

    url: str
    model: str
    words: int
    tokens: int

    def body(self) -> bytes:
        """No two alike, so that no answer comes from a cache."""
        content = " ".join(random.choices(WORDS, k=self.words))
        return json.dumps({
            "model": self.model, "stream": True, "max_tokens": self.tokens, "ignore_eos": True, "temperature": 0,
            "messages": [{"role": "user", "content": content}],
        }).encode()  # fmt: skip


@dataclass(frozen=True)
class Asking:
    """What is asked, and with which keys."""

    request: Request
    keys: tuple[str, ...]


async def ask(session: aiohttp.ClientSession, request: Request, key: str = "", due_s: float | None = None) -> Answer:
    """Raises nothing for what a service does. Every answer is read to its end."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body, reading, status, code = request.body(), Reading(), NOTHING, ""
    sent_s = time.perf_counter()
    try:
        url = f"{request.url}/v1/chat/completions"
        async with session.post(url, data=body, headers=headers) as response:
            status = response.status
            if status == OK:
                while piece := await response.content.readany():
                    reading.feed(piece, time.perf_counter())
            else:
                code = code_of(await response.read())
    except (aiohttp.ClientError, OSError, asyncio.CancelledError) as error:
        code = type(error).__name__  # one that is cut off is lost like any other
    first_s = reading.times[0] if reading.times else 0.0
    ended_s = time.perf_counter()
    complete = reading.done and reading.failure is None
    return Answer(sent_s if due_s is None else due_s, sent_s, first_s, ended_s, status, complete, code, key)


def code_of(raw: bytes) -> str:
    """OpenAI's code of an error."""
    try:
        error = json.loads(raw)["error"]
        return str(error["code"])
    except (ValueError, LookupError, TypeError):
        return "unreadable"


@asynccontextmanager
async def loaded(asking: Callable[[], Awaitable[Answer]], users: int) -> AsyncIterator[list[Answer]]:
    """Users who ask again and again meanwhile, and their answers."""
    over, answers = asyncio.Event(), list[Answer]()

    async def user() -> None:
        while not over.is_set():
            answers.append(answer := await asking())
            if answer.status != OK:
                await asyncio.sleep(PAUSE_S)

    tasks = [asyncio.create_task(user()) for _ in range(users)]
    try:
        yield answers
    finally:
        over.set()
        await asyncio.gather(*tasks)
