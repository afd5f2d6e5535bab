"""What attacks cost the others: python -m loadtests.attack.

Starts a service of one pocket model that asks for keys, unless --url says where one is, and prints figures: malformed
requests and their answers, a good request's time before, beside and after them, the memory of each process after each
thousand, idle connections, slow clients. Exits with 1 after a 500, a request without an answer, or memory that grows;
and where more than a hundredth were answered 429, for nobody has read those.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from loadtests.attack.crowds import crowd, slow_clients
from loadtests.attack.malformed import Malformed, Malformer
from loadtests.attack.wire import Outcome, send_all
from loadtests.keys.service import made_key, profile
from loadtests.servers import corral_service

MODEL = "pocket-1b"
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}
ROUND, SETTLED = 1000, 2
"""Malformed requests between two looks at the memory; rounds after which all that is loaded once is loaded."""
GROWTH_MIB = 32
"""That a process may have more from then on, caches and the allocator's own included."""
KEYS = 16
"""That share the malformed requests: one alone may send 500 a second."""
MOST_UNREAD = 0.01
"""Of them: what is answered 429 was read by nobody."""
PATIENCE_S = 90.0


@dataclass(frozen=True)
class Target:
    """pid: of the service's own process, whose memory and that of all below it is looked at; None: it is not."""

    url: str
    keys: tuple[str, ...]
    pid: int | None

    @property
    def key(self) -> str:
        """Of the good requests."""
        return self.keys[0] if self.keys else ""

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    async def good_ms(self, count: int) -> list[float]:
        """Times of good requests, one after the other. Raises httpx.HTTPStatusError for one that is not served."""
        took = []
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=PATIENCE_S, trust_env=False) as http:
            for _ in range(count):
                began = time.perf_counter()
                (await http.post("/v1/chat/completions", json=ASKED)).raise_for_status()
                took.append(1000 * (time.perf_counter() - began))
        return took

    def memory_mib(self) -> dict[str, float]:
        """What each process has for itself alone."""
        found: dict[str, float] = {}
        if self.pid is None:
            return found
        root = psutil.Process(self.pid)
        for process in (root, *root.children(recursive=True)):
            try:
                name = " ".join(process.cmdline()[:3])[-40:] or process.name()
                found[f"{process.pid} {name}"] = process.memory_full_info().uss / (1 << 20)
            except psutil.Error:
                continue
        return found


def told(what: str, took: Sequence[float]) -> None:
    ordered = sorted(took)
    print(
        f"  a good request {what}: p50 {statistics.median(ordered):.1f} ms, most {ordered[-1]:.1f} ms of {len(ordered)}"
    )


async def malformed(target: Target, count: int, seed: int) -> bool:
    told("before", await target.good_ms(100))
    requests, looks = malformed_of(target.keys or ("",), count, seed), [target.memory_mib()]
    outcome, began = Outcome(), time.perf_counter()
    for _ in range(0, count, ROUND):
        await send_all(*target.address, islice(requests, ROUND), outcome)
        looks.append(target.memory_mib())
    took = time.perf_counter() - began
    print(f"{count} malformed requests in {took:.1f} s: {dict(sorted(outcome.statuses.items()))}, hung {outcome.hung}")
    print(f"  of them failed: {dict(outcome.failed)}")
    told("after", await target.good_ms(100))
    for kind, sent, answer in outcome.faults[:10]:
        shown = without(target.keys, sent)
        print(f"  {kind}: {shown[:300]!r} {shown[-100:]!r} -> {answer[:200]!r}")
    kept = kept_its_size(looks) and not outcome.faults
    if (unread := outcome.statuses["429"]) > MOST_UNREAD * count:
        print(f"  {unread} were answered 429, and so not read; share them among more keys (--key, several times)")
        return False
    return kept


def malformed_of(keys: Sequence[str], count: int, seed: int) -> Iterator[Malformed]:
    """So many, of each key in turn."""
    each = [Malformer(MODEL, key, seed + number).many(count) for number, key in enumerate(keys)]
    return islice(chain.from_iterable(zip(*each, strict=True)), count)


def without(keys: Sequence[str], sent: bytes) -> bytes:
    for key in keys:
        sent = sent.replace(key.encode(), b"KEY")
    return sent


def kept_its_size(looks: Sequence[dict[str, float]]) -> bool:
    """Print what each process had before and after each round, and whether none grew too much once settled."""
    settled, last = looks[min(SETTLED, len(looks) - 1)], looks[-1]
    for name in last:
        had = [look[name] for look in looks if name in look]
        if max(had) - min(had) >= 1:
            print(f"  MiB of {name}: {', '.join(f'{each:.1f}' for each in had)}")
    print(f"  MiB of all {len(last)} processes: {', '.join(f'{sum(look.values()):.0f}' for look in looks)}")
    return max((last[name] - settled[name] for name in settled if name in last), default=0) <= GROWTH_MIB


async def idle(target: Target, count: int) -> bool:
    before = target.memory_mib()
    async with crowd(*target.address, count) as there:
        print(f"{len(there.pairs)} idle connections, {there.refused} refused")
        told("beside them", await target.good_ms(50))
        held = target.memory_mib()
        left, took = await there.left(PATIENCE_S)
        print(f"  {left} are left after {took:.0f} s")
    print(f"  memory of all processes: {sum(before.values()):.0f} MiB before, {sum(held.values()):.0f} with them")
    return left == 0


async def slow(target: Target, count: int) -> bool:
    async with slow_clients(*target.address, count, MODEL, target.key) as there:
        print(f"{len(there.pairs)} slow clients")
        told("beside them", await target.good_ms(50))
    told("after them", await target.good_ms(50))
    return True


def started(stack: ExitStack) -> Target:
    """A service of its own."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    os.environ["CORRAL_STATE_DIR"] = str(folder / "state")
    os.environ.pop("CORRAL_API_KEY", None)
    path = profile(folder, MODEL, "required")
    url = stack.enter_context(corral_service(str(path)))
    keys = tuple(made_key(path, f"attacker-{number}") for number in range(KEYS))
    time.sleep(3)  # the edge takes them within moments
    (state,) = (folder / "state").glob("*.json")
    return Target(url, keys, int(json.loads(state.read_text())["pid"]))


async def _attack(target: Target, given: argparse.Namespace) -> bool:
    told("at first", await target.good_ms(20))
    kept = await malformed(target, given.requests, given.seed)
    kept = await slow(target, given.slow) and kept
    return await idle(target, given.idle) and kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="Malformed ones.")
    parser.add_argument("--idle", type=int, default=10_000, help="Idle connections.")
    parser.add_argument("--slow", type=int, default=300, help="Slow clients.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url", help="Of a service that runs already.")
    parser.add_argument("--key", action="append", default=[], help="For it; several times for several.")
    parser.add_argument("--pid", type=int, help="Of its own process.")
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        target = Target(given.url, tuple(filter(None, given.key)), given.pid) if given.url else started(stack)
        kept = asyncio.run(_attack(target, given))
    sys.exit(0 if kept else 1)
