"""Streamed completions over HTTP, timed event by event."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from itertools import pairwise

import aiohttp

PROMPT = (
    "Passage: The cedar partition has a time limit of 48 hours. The birch partition has 12 nodes. "
    "Scratch files are deleted after 30 days.\n\nQuestion: How long may a job run on cedar?"
)


@dataclass(frozen=True)
class Timed:
    """One request: time to first token, gaps between later ones, and the whole, in seconds."""

    ttft_s: float
    gaps_s: tuple[float, ...]
    total_s: float
    tokens: int


@dataclass
class Run:
    """Requests of one round at one concurrency, and how long the round took."""

    wall_s: float
    requests: list[Timed] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        return sum(each.tokens for each in self.requests) / self.wall_s

    def ttft_ms(self, share: float) -> float:
        return 1000 * percentile([each.ttft_s for each in self.requests], share)

    def itl_ms(self, share: float) -> float:
        return 1000 * percentile([gap for each in self.requests for gap in each.gaps_s], share)


def percentile(values: list[float], share: float) -> float:
    """Nearest-rank percentile of at least one value; `share` from 0 to 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def run(url: str, model: str, concurrency: int, requests: int, max_tokens: int) -> Run:
    """Send `requests` streaming chat requests, `concurrency` at a time (closed loop). Raises on any that fails."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "ignore_eos": True,
        # A special token has no text otherwise, so no event, and what comes after it would look late.
        "skip_special_tokens": False,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    done: list[Timed] = []
    left = iter(range(requests))
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600)) as session:

        async def worker() -> None:
            for _ in left:
                done.append(await _one(session, url, body))

        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        return Run(time.perf_counter() - began, done)


async def _one(session: aiohttp.ClientSession, url: str, body: dict[str, object]) -> Timed:
    began = time.perf_counter()
    times: list[float] = []
    usage = b""
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{url} answered {response.status}: {(await response.text())[:300]}")
        async for line in response.content:
            if b'"content":"' in line and b'"role"' not in line:
                times.append(time.perf_counter())
            elif line.startswith(b"data: {"):
                usage = line
    tokens = json.loads(usage.removeprefix(b"data: "))["usage"]["completion_tokens"]
    gaps = tuple(later - earlier for earlier, later in pairwise(times))
    return Timed(times[0] - began, gaps, time.perf_counter() - began, tokens)
