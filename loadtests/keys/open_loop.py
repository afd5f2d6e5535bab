"""Requests at their times, whatever became of those before: one client process's part of a schedule."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtests.client.exchange import open_session
from loadtests.client.pace import arrivals
from loadtests.keys.client import Answer, Asking, ask, loaded

GRACE_S = 60.0
"""For what is under way at the end; the rest is cut off, which is lost."""
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Schedule:
    """When requests are due, in seconds since the begin, and of which key each is."""

    dues_s: tuple[float, ...]
    keys: tuple[int, ...]

    def part(self, number: int, of: int) -> Schedule:
        """Every so many-th request, so that all processes send all the time."""
        return Schedule(self.dues_s[number::of], self.keys[number::of])


def poisson(per_s: float, seconds: float, keys: int, seed: int) -> Schedule:
    """Arrivals of all keys together, each of a key at random: so each key's own are Poisson, too."""
    most = int(per_s * seconds * 1.5) + 100
    dues_s = arrivals(per_s, seconds, [seed], most)
    drawn = np.random.default_rng([seed, keys]).integers(keys, size=len(dues_s))
    return Schedule(tuple(dues_s), tuple(map(int, drawn)))


@dataclass(frozen=True)
class Part:
    """What one process sends. began_s: on the monotonic clock, which all processes share."""

    asking: Asking
    schedule: Schedule
    began_s: float


@dataclass(frozen=True)
class Users:
    """Users of one process, who ask again at once until `until_s` on the monotonic clock."""

    asking: Asking
    users: int
    until_s: float


@dataclass(frozen=True)
class Sent:
    """What one process or all together sent and saw, and the processor time that it took them."""

    answers: tuple[Answer, ...]
    processor_s: float


def send(part: Part) -> Sent:
    """In a process of its own."""
    return _timed(_send(part))


def crowd(users: Users) -> Sent:
    """In a process of its own."""
    return _timed(_crowd(users))


def _timed(answering: Coroutine[Any, Any, list[Answer]]) -> Sent:
    gc.freeze()  # what is there already is not looked through again and again, which would pause the client
    began_s = time.process_time()
    answers = asyncio.run(answering)
    return Sent(tuple(answers), time.process_time() - began_s)


async def _send(part: Part) -> list[Answer]:
    schedule, answers, under_way = part.schedule, list[Answer](), set[asyncio.Task[None]]()
    async with open_session(timeout_s=TIMEOUT_S) as session:

        async def one(key: str, due_s: float) -> None:
            answers.append(await ask(session, part.asking.request, key, due_s))

        for after_s, number in zip(schedule.dues_s, schedule.keys, strict=True):
            due_s = part.began_s + after_s
            if (rest_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(rest_s)
            task = asyncio.create_task(one(part.asking.keys[number], due_s))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await _run_out(under_way)
    return answers


async def _run_out(under_way: set[asyncio.Task[None]]) -> None:
    """What is not answered within the grace is cut off, and counts as an answer of nothing."""
    if not under_way:
        return
    _, late = await asyncio.wait(under_way, timeout=GRACE_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*late)


async def _crowd(users: Users) -> list[Answer]:
    keys = itertools.cycle(users.asking.keys)
    async with open_session(timeout_s=TIMEOUT_S) as session:
        async with loaded(lambda: ask(session, users.asking.request, next(keys)), users.users) as answers:
            await asyncio.sleep(max(0.0, users.until_s - time.perf_counter()))
        return answers
