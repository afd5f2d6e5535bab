"""POST /bulk beside vLLM's offline LLM class, and what people feel of it: python -m loadtests.bulk.

The same prompts in turn (A B A B) through the one address and through `LLM.chat` on the same engine arguments, then one
person's first tokens on an idle service and beside a bulk call. Service, engines and client share this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from loadtests.records import Interval
from loadtests.servers import EnginePlan, corral_service, engine_plan
from loadtests.sweep.figures import percentile
from loadtests.sweep.intervals import ratio_of

PARTITIONS = ("alder", "birch", "cedar", "fir", "maple", "oak", "willow")
AIM_THROUGHPUT, AIM_TTFT = 0.95, 2.0
TEXT = re.compile(rb'"delta":\{"content":"(?!")')
LONG_TOKENS = 500
LONG = {
    "type": "json_schema",
    "json_schema": {"name": "long", "schema": {"type": "array", "items": {"type": "integer"}, "minItems": LONG_TOKENS}},
}
"""Has the pocket models write to the last token."""
BETWEEN_S = 0.1
"""Between two questions of the person."""


@dataclass(frozen=True)
class Round:
    """One batch of prompts: its seconds, and the tokens of its answers."""

    seconds: float
    output_tokens: int

    @property
    def tokens_per_s(self) -> float:
        return self.output_tokens / self.seconds


def prompts(count: int, seed: int) -> list[str]:
    """Passages that differ, each with a question; no two runs of a seed differ."""
    return [_prompt(random.Random(f"{seed}/{index}")) for index in range(count)]


def _prompt(draw: random.Random) -> str:
    asked, other = draw.sample(PARTITIONS, 2)
    facts = [
        f"The {asked} partition has a time limit of {draw.randint(2, 99)} hours.",
        f"The {other} partition has {draw.randint(2, 99)} nodes.",
        f"Scratch files are deleted after {draw.randint(2, 99)} days.",
    ]
    draw.shuffle(facts)
    return f"Passage: {' '.join(facts)}\n\nQuestion: How long may a job run on {asked}?"


def bulk(address: str, model: str, asked: list[str], max_tokens: int, **more: Any) -> Round:
    """All prompts in one call, with further fields of each item. Raises RuntimeError if an item failed."""
    call = {
        "model": model,
        "defaults": {"max_tokens": max_tokens, "temperature": 0, **more},
        "items": [{"prompt": prompt} for prompt in asked],
    }
    began = time.perf_counter()
    with posted(f"{address}/bulk", call) as answer:
        summary = json.load(answer)["summary"]
    seconds = time.perf_counter() - began
    if summary["failed"]:
        raise RuntimeError(f"{summary['failed']} of {summary['total']} items failed")
    return Round(seconds, summary["completion_tokens"])


def first_token_s(address: str, model: str, prompt: str) -> float:
    """Seconds to the first text of a streamed chat, which is then read to its end. RuntimeError if it has none."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 32, "stream": True}
    began, first = time.perf_counter(), 0.0
    with posted(f"{address}/v1/chat/completions", body) as answer:
        for line in answer:
            if not first and TEXT.search(line):
                first = time.perf_counter() - began
    if not first:
        raise RuntimeError(f"an answer of {model} has no text")
    return first


def posted(url: str, body: object) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=900)


class Offline:
    """vLLM's LLM class in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer("ready")

    def chat(self, asked: list[str], max_tokens: int) -> Round:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"prompts": asked, "max_tokens": max_tokens}) + "\n")
        self._process.stdin.flush()
        return Round(**json.loads(self._answer("{")))

    def _answer(self, begin: str) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line.startswith(begin):
            raise RuntimeError(f"vLLM's LLM class ended or said {line[:200]!r}")
        return line


@contextmanager
def offline(plan: EnginePlan) -> Iterator[Offline]:
    command = [sys.executable, "-m", "loadtests.offline", *plan.arguments]
    environment = {**os.environ, **plan.environment}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        try:
            yield Offline(process)
        finally:
            assert process.stdin
            process.stdin.close()  # which ends it
            process.wait(60)


def person(address: str, model: str, questions: int, seed: int, stop: threading.Event | None = None) -> list[float]:
    """First tokens of one who asks again and again, ms; until `stop` if that comes first."""
    found = []
    for prompt in prompts(questions, seed):
        found.append(1000 * first_token_s(address, model, prompt))
        time.sleep(BETWEEN_S)
        if stop and stop.is_set():
            break
    return found


def beside_bulk(address: str, given: argparse.Namespace) -> list[float]:
    """The same person while a bulk call runs. Raises what became of the call if it failed."""
    over = threading.Event()

    def run() -> Round:
        try:
            return bulk(address, given.model, prompts(given.prompts * 2, given.seed + 99), given.max_tokens)
        finally:
            over.set()

    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(run)
        time.sleep(0.5)
        found = person(address, given.model, 10_000, given.seed + 1, over)
        load.result()
    return found


def met_full(address: str, given: argparse.Namespace) -> list[float]:
    """First tokens, ms, of one who comes while long answers hold every sequence of the engine, once each time."""
    found = []
    for number in range(given.meetings):
        with ThreadPoolExecutor(1) as pool:
            asked = prompts(given.long_items, given.seed + 200 + number)
            load = pool.submit(bulk, address, given.model, asked, LONG_TOKENS, response_format=LONG)
            time.sleep(2.5)
            found += person(address, given.model, 1, given.seed + 300 + number)
            load.result()
        time.sleep(2.5)  # a replica expects the next question for two seconds
    return found


def told(name: str, figures: list[float]) -> float:
    """Print the spread; returns its 95th percentile."""
    p50, p95 = percentile(figures, 50), percentile(figures, 95)
    print(f"{name}: first token p50 {p50:.1f} ms, p95 {p95:.1f} ms of {len(figures)} questions", flush=True)
    return p95


def throughput(address: str, alone: Offline, given: argparse.Namespace) -> Interval:
    """The ratio of both, in turn; the first round warms both up."""
    sides: tuple[list[float], list[float]] = ([], [])
    for number in range(given.rounds + 1):
        asked = prompts(given.prompts if number else 100, given.seed + number)
        ours, other = bulk(address, given.model, asked, given.max_tokens), alone.chat(asked, given.max_tokens)
        if number:
            sides[0].append(ours.tokens_per_s)
            sides[1].append(other.tokens_per_s)
            print(f"round {number}: bulk {ours.tokens_per_s:.0f}, offline {other.tokens_per_s:.0f} tokens/s of "
                  f"{ours.output_tokens} and {other.output_tokens} tokens", flush=True)  # fmt: skip
    ratio = ratio_of(*sides)
    assert ratio is not None
    return ratio


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--profile", default="pocket")
    parser.add_argument("--model", default="pocket-8b")
    parser.add_argument("--address", help="of a running service; one is started if unset")
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=60, help="of the person, on an idle service")
    parser.add_argument("--long-items", type=int, default=128, help="that fill the engine, for one who comes then")
    parser.add_argument("--meetings", type=int, default=5, help="how often somebody comes then")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    with ExitStack() as running:
        address = given.address or running.enter_context(corral_service(given.profile))
        with offline(engine_plan(given.profile, given.model)) as alone:
            ratio = throughput(address, alone, given)
        idle = told("idle service", person(address, given.model, given.questions, given.seed))
        busy = told("beside bulk", beside_bulk(address, given))
        told("an engine full of long answers", met_full(address, given))
    print(f"bulk of {given.prompts}: {ratio.value:.2f} of vLLM's offline throughput ({ratio.low} to {ratio.high})")
    print(f"first token p95 beside bulk: {busy / idle:.2f} times its idle value")
    return 0 if ratio.value >= AIM_THROUGHPUT and busy <= AIM_TTFT * idle else 1


if __name__ == "__main__":
    raise SystemExit(main())
