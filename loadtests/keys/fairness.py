"""The first tokens of a quiet key, alone and beside another key's flood, in turn."""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import aiohttp

from loadtests.client.exchange import open_session
from loadtests.keys import aims
from loadtests.keys.aims import Judged
from loadtests.keys.client import Answer, Request, ask, loaded
from loadtests.keys.service import REQUIRED, made_key, profile
from loadtests.servers import corral_service
from loadtests.sweep.figures import percentile

QUIET_TOKENS, FLOOD_TOKENS = 16, 128
COUNT = 100
"""Questions of the quiet key in each turn."""
BETWEEN_S = 0.25
SETTLE_S, FLOODED_S = 3, 6


async def fairness(model: str, users: int, words: int, rounds: int, stack: ExitStack) -> list[Judged]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    path = profile(folder, model, REQUIRED)
    url = stack.enter_context(corral_service(str(path)))
    quiet, flood = made_key(path, "quiet"), made_key(path, "flood")
    await asyncio.sleep(SETTLE_S)
    alone, beside = list[float](), list[float]()
    async with open_session() as session:
        asking = partial(first_tokens_ms, session, Request(url, model, words, QUIET_TOKENS), quiet)
        flooding = partial(ask, session, Request(url, model, words, FLOOD_TOKENS), flood)
        for _ in range(rounds):
            alone.append(await asking())
            async with loaded(flooding, users) as answers:
                await asyncio.sleep(FLOODED_S)
                began_s = time.perf_counter()
                beside.append(await asking())
                print(_turn(alone[-1], beside[-1], answers, began_s))
    ratio = statistics.median(b / a for a, b in zip(alone, beside, strict=True))
    return [Judged(f"a quiet key's TTFT p95 beside {users} users, of its value alone,", ratio, aims.FAIRNESS)]


async def first_tokens_ms(session: aiohttp.ClientSession, request: Request, key: str, count: int = COUNT) -> float:
    """p95, of requests a quarter of a second apart. RuntimeError where one is not answered."""
    took_ms = []
    for _ in range(count):
        answer = await ask(session, request, key)
        if not answer.good:
            raise RuntimeError(f"a question of the quiet key got {answer.status or 'nothing'}: {answer.code}")
        took_ms.append(answer.first_ms)
        await asyncio.sleep(2 * BETWEEN_S * random.random())
    return percentile(took_ms, 95)


def _turn(alone_ms: float, beside_ms: float, answers: list[Answer], began_s: float) -> str:
    good = sum(each.good and each.ended_s >= began_s for each in answers)
    per_s = good / (time.perf_counter() - began_s)
    return f"TTFT p95 alone {alone_ms:.1f} ms, beside {beside_ms:.1f} ms; the flood got {per_s:.1f} a second"
