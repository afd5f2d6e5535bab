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
from loadtests.keys.client import Answer, Asking, Request, ask
from loadtests.keys.crew import Crew
from loadtests.keys.priority import first
from loadtests.keys.service import REQUIRED, made_key, profile
from loadtests.servers import corral_service
from loadtests.sweep.figures import percentile

QUIET_TOKENS, FLOOD_TOKENS = 16, 128
TURN_S = 40.0
"""Of the quiet key's questions."""
BETWEEN_S = 0.25
SETTLE_S, FLOODED_S = 3, 6


async def fairness(model: str, users: int, words: int, rounds: int, processes: int, stack: ExitStack) -> list[Judged]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    path = profile(folder, model, REQUIRED)
    url = stack.enter_context(corral_service(str(path)))
    quiet, flood = made_key(path, "quiet"), made_key(path, "flood")
    await asyncio.sleep(SETTLE_S)
    alone, beside = list[float](), list[float]()
    with Crew(processes) as crew, first():
        async with open_session() as session:
            asking = partial(first_tokens_ms, session, Request(url, model, words, QUIET_TOKENS), quiet)
            flooding = partial(crew.closed, Asking(Request(url, model, words, FLOOD_TOKENS), (flood,)), users)
            for _ in range(rounds):
                alone.append(await asking(TURN_S))
                flooded = asyncio.create_task(asyncio.to_thread(flooding, FLOODED_S + TURN_S))
                await asyncio.sleep(FLOODED_S)
                began_s = time.perf_counter()
                beside.append(await asking(TURN_S - BETWEEN_S))
                print(_turn(alone[-1], beside[-1], (await flooded).answers, began_s), flush=True)
    ratio = statistics.median(b / a for a, b in zip(alone, beside, strict=True))
    return [Judged(f"a quiet key's TTFT p95 beside {users} users, of its value alone,", ratio, aims.FAIRNESS)]


async def first_tokens_ms(session: aiohttp.ClientSession, request: Request, key: str, seconds: float) -> float:
    """p95, of requests a quarter of a second apart for so long. RuntimeError where one is not answered."""
    until_s, took_ms = time.perf_counter() + seconds, list[float]()
    while not took_ms or time.perf_counter() < until_s:
        answer = await ask(session, request, key)
        if not answer.good:
            raise RuntimeError(f"a question of the quiet key got {answer.status or 'nothing'}: {answer.code}")
        took_ms.append(answer.first_ms)
        await asyncio.sleep(2 * BETWEEN_S * random.random())
    return percentile(took_ms, 95)


def _turn(alone_ms: float, beside_ms: float, answers: tuple[Answer, ...], began_s: float) -> str:
    good = sum(each.good and began_s <= each.ended_s < began_s + TURN_S for each in answers)
    return f"TTFT p95 alone {alone_ms:.1f} ms, beside {beside_ms:.1f} ms; the flood got {good / TURN_S:.1f} a second"
