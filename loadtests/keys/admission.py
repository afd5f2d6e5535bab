"""What keys and quotas add to a request of one token: a service with keys and one without, in turn."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from loadtests.client.exchange import open_session
from loadtests.keys import aims
from loadtests.keys.aims import Judged
from loadtests.keys.client import Request, ask
from loadtests.keys.priority import first
from loadtests.keys.service import OFF, REQUIRED, made_key, profile
from loadtests.servers import corral_service

MODEL = "pocket-1b"
WORDS = 5
EACH = 200
"""Requests of each turn."""
SETTLE_S = 3


@dataclass
class Contender:
    """A service, and the median of each of its turns."""

    request: Request
    key: str = ""
    medians_ms: list[float] = field(default_factory=list)

    async def turn(self, session: aiohttp.ClientSession, each: int) -> float:
        """RuntimeError where a request is not answered: its time would be no figure."""
        answers = [await ask(session, self.request, self.key) for _ in range(each)]
        if wrong := [answer for answer in answers if not answer.good]:
            raise RuntimeError(f"{len(wrong)} of {each} requests failed, the first with {wrong[0].status or 'nothing'}")
        return statistics.median(answer.whole_ms for answer in answers)


async def admission(rounds: int, stack: ExitStack) -> list[Judged]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    without, keyed = (_contender(folder, keys, stack) for keys in (OFF, REQUIRED))
    await asyncio.sleep(SETTLE_S)
    with first():
        await in_turn([without, keyed], rounds)
    added = differences(without.medians_ms, keyed.medians_ms)
    print(
        f"a request of one token, p50 of {EACH}: "
        f"without keys {shown(without.medians_ms)} ms, with {shown(keyed.medians_ms)}"
    )
    print(f"keys and quota add {statistics.median(added):.2f} ms ({min(added):.2f} to {max(added):.2f})")
    return [Judged("ms that keys add to a request", statistics.median(added), aims.ADMISSION_MS)]


async def in_turn(contenders: list[Contender], rounds: int, each: int = EACH) -> None:
    """A B A B; a first round warms up."""
    async with open_session() as session:
        for number in range(rounds + 1):
            for contender in contenders:
                median_ms = await contender.turn(session, each)
                if number:
                    contender.medians_ms.append(median_ms)


def differences(without: list[float], keyed: list[float]) -> list[float]:
    """Of each round, so that what drifts from round to round is in neither."""
    return [b - a for a, b in zip(without, keyed, strict=True)]


def shown(values: list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _contender(folder: Path, keys: str, stack: ExitStack) -> Contender:
    path = profile(folder, MODEL, keys)
    url = stack.enter_context(corral_service(str(path)))
    return Contender(Request(url, MODEL, WORDS, 1), made_key(path, "somebody") if keys == REQUIRED else "")
