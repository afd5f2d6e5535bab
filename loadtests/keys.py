"""What keys cost, and what they are worth under load: python -m loadtests.keys.

Starts services of one pocket model. `admission`: a request of one token with keys and without, in turn. `fairness`: the
first tokens of a quiet key alone and beside another key's flood, in turn. `overload`: what a service answers at its
limit, and at twice that. Service and client share this machine. Exits with 1 where an aim is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from loadtests.client.exchange import open_session
from loadtests.servers import CORRAL, corral_service
from loadtests.sweep.figures import percentile

WORDS = ("cedar", "birch", "willow", "node", "time", "limit", "queue", "hours")
AIM_ADMISSION_MS, AIM_FAIRNESS, AIM_GOODPUT, AIM_REFUSAL_MS = 2.0, 1.5, 0.9, 100.0
KEYS = "required"


@dataclass
class Answer:
    """status 0: nothing came. first_s: to the first token."""

    status: int
    first_s: float
    whole_s: float
    complete: bool


@dataclass
class Service:
    """A running one and a key to it."""

    url: str
    key: str = ""
    model: str = "pocket-1b"
    seen: Counter[int] = field(default_factory=Counter)

    async def ask(self, session: aiohttp.ClientSession, words: int, tokens: int) -> Answer:
        body = {
            "model": self.model, "stream": True, "max_tokens": tokens, "ignore_eos": True, "temperature": 0,
            "messages": [{"role": "user", "content": " ".join(random.choices(WORDS, k=words))}],
        }  # fmt: skip
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        began, first, end = time.perf_counter(), 0.0, b""
        try:
            async with session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as answer:
                status = answer.status
                async for line in answer.content:
                    if not first and b'"content":"' in line:
                        first = time.perf_counter() - began
                    end = line if line.strip() else end
        except aiohttp.ClientError:
            status = 0
        self.seen[status] += 1
        return Answer(status, first, time.perf_counter() - began, end.startswith(b"data: [DONE]"))


def made_key(profile: Path, name: str) -> str:
    made = subprocess.run(
        [str(CORRAL), "keys", "create", name, "--profile", str(profile), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return str(json.loads(made.stdout)["key"])


def profile(folder: Path, model: str, keys: str) -> Path:
    others = {each: None for each in ("pocket-1b", "pocket-3b", "pocket-8b", "pocket-70b") if each != model}
    content = {
        "extends": "pocket", "models": others, "access": {"keys": keys, "file": str(folder / "keys" / "keys.json")},
        "tribunals": {"default": {"members": [model], "chair": model}, "refine": {"members": [model]}},
        "rag": {"folder": str(folder / "rag")},
    }  # fmt: skip
    path = folder / f"{keys}.yaml"
    path.write_text(json.dumps(content))
    return path


async def admission(rounds: int, each: int, stack: ExitStack) -> bool:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    sides = {}
    for keys in ("off", KEYS):
        path = profile(folder, "pocket-1b", keys)
        sides[keys] = Service(stack.enter_context(corral_service(str(path))))
    sides[KEYS].key = made_key(folder / f"{KEYS}.yaml", "somebody")
    await asyncio.sleep(3)
    medians: dict[str, list[float]] = {keys: [] for keys in sides}
    async with open_session() as session:
        for number in range(rounds + 1):
            for keys, side in sides.items():
                took = [1000 * (await side.ask(session, 5, 1)).whole_s for _ in range(each)]
                if number:  # the first round warms up
                    medians[keys].append(statistics.median(took))
    added = [with_keys - without for with_keys, without in zip(medians[KEYS], medians["off"], strict=True)]
    print(
        f"a request of one token, p50 of {each}: without keys {shown(medians['off'])} ms, with {shown(medians[KEYS])}"
    )
    print(f"keys and quota add {statistics.median(added):.2f} ms ({min(added):.2f} to {max(added):.2f})")
    return statistics.median(added) <= AIM_ADMISSION_MS


def shown(values: list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


async def fairness(model: str, users: int, words: int, rounds: int, stack: ExitStack) -> bool:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    path = profile(folder, model, KEYS)
    url = stack.enter_context(corral_service(str(path)))
    quiet, flood = (Service(url, made_key(path, name), model) for name in ("quiet", "flood"))
    await asyncio.sleep(3)
    alone: list[float] = []
    beside: list[float] = []
    async with open_session() as session:
        for _ in range(rounds):
            alone.append(await first_tokens(quiet, session, words))
            async with loaded(lambda: flood.ask(session, words, 128), users):
                await asyncio.sleep(6)
                before, began = flood.seen[200], time.perf_counter()
                beside.append(await first_tokens(quiet, session, words))
                rate = (flood.seen[200] - before) / (time.perf_counter() - began)
                print(
                    f"TTFT p95 alone {alone[-1]:.1f} ms, beside {beside[-1]:.1f} ms; the flood got {rate:.1f} a second"
                )
    ratio = statistics.median(b / a for a, b in zip(alone, beside, strict=True))
    print(f"a quiet key's TTFT p95 beside {users} users of another: {ratio:.2f} times its value alone")
    return ratio <= AIM_FAIRNESS


async def first_tokens(side: Service, session: aiohttp.ClientSession, words: int, count: int = 100) -> float:
    """p95 in ms, of requests a quarter of a second apart."""
    took = []
    for _ in range(count):
        answer = await side.ask(session, words, 16)
        assert answer.status == 200, answer
        assert answer.complete, answer
        took.append(1000 * answer.first_s)
        await asyncio.sleep(0.5 * random.random())
    return percentile(sorted(took), 95)


@asynccontextmanager
async def loaded(ask: Callable[[], Awaitable[Answer]], users: int) -> AsyncIterator[None]:
    """Users who ask again and again meanwhile."""
    over = asyncio.Event()

    async def user() -> None:
        while not over.is_set():
            if (await ask()).status != 200:
                await asyncio.sleep(0.5)

    asking = [asyncio.create_task(user()) for _ in range(users)]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*asking)


async def overload(model: str, seconds: float, stack: ExitStack) -> bool:
    """Closed loop at the engine's size for the peak, then open loop at twice that rate."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    path = profile(folder, model, KEYS)
    side = Service(stack.enter_context(corral_service(str(path))), made_key(path, "somebody"), model)
    await asyncio.sleep(3)
    async with open_session() as session:
        async with loaded(lambda: side.ask(session, 20, 64), 96):
            await asyncio.sleep(5)
            before, began = side.seen[200], time.perf_counter()
            await asyncio.sleep(20)
            peak = (side.seen[200] - before) / (time.perf_counter() - began)
        asked, began = [], time.perf_counter()
        while (now := time.perf_counter() - began) < seconds:
            asked.append(asyncio.create_task(side.ask(session, 20, 64)))
            await asyncio.sleep(max(0.0, random.expovariate(2 * peak) + now - (time.perf_counter() - began)))
        took = time.perf_counter() - began
        answers = await asyncio.gather(*asked)
    good = [each for each in answers if each.status == 200 and each.complete]
    refused = sorted(1000 * each.whole_s for each in answers if each.status == 429)
    told = dict(Counter(each.status for each in answers))
    late = percentile(refused, 95) if refused else 0.0
    lost = len(answers) - len(good) - len(refused)
    print(f"peak {peak:.1f} answers/s; asked {len(asked) / took:.1f} a second for {took:.0f} s: {told}")
    print(f"goodput {len(good) / took / peak:.2f} of the peak; refused within {late:.0f} ms (p95); lost {lost}")
    return len(good) / took >= AIM_GOODPUT * peak and late <= AIM_REFUSAL_MS and not lost


async def _work(given: argparse.Namespace, stack: ExitStack) -> bool:
    if given.what == "admission":
        return await admission(given.rounds, 200, stack)
    if given.what == "fairness":
        return await fairness(given.model, given.users, given.words, given.rounds, stack)
    return await overload(given.model, given.seconds, stack)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("admission", "fairness", "overload"))
    parser.add_argument("--model", default="pocket-8b")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--users", type=int, default=150, help="Of the key that floods.")
    parser.add_argument("--words", type=int, default=100, help="Of a prompt of the fairness.")
    parser.add_argument("--seconds", type=float, default=60, help="Of the overload.")
    given = parser.parse_args()
    os.environ.pop("CORRAL_API_KEY", None)  # the services that are started here have others
    with ExitStack() as stack:
        os.environ["CORRAL_STATE_DIR"] = stack.enter_context(tempfile.TemporaryDirectory())
        kept = asyncio.run(_work(given, stack))
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
