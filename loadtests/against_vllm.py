"""Corral's one address against vLLM's own server on the same engine arguments: make bench.

Starts both (or takes --corral and --bare), sends each the same streamed load in turn, A B A B, and prints throughput,
time to first token and inter-token latency with their ratios. Client, servers and engines share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.stream import Run, run

BIN = Path(sys.executable).parent
START_S = 300
LIMITS = {"tokens_per_s": 0.9, "ttft_p50_ms": 5.0, "itl": 1.3}


@dataclass(frozen=True)
class Row:
    """One concurrency: the medians of the rounds on both sides, and of the rounds' ratios."""

    concurrency: int
    bare: dict[str, float]
    corral: dict[str, float]
    ratio: dict[str, float]


FIGURES: dict[str, Callable[[Run], float]] = {
    "tokens_per_s": lambda r: r.tokens_per_s,
    "ttft_p50_ms": lambda r: r.ttft_ms(0.5),
    "ttft_p95_ms": lambda r: r.ttft_ms(0.95),
    "itl_p50_ms": lambda r: r.itl_ms(0.5),
    "itl_p95_ms": lambda r: r.itl_ms(0.95),
}


async def compare(
    bare: str, corral: str, model: str, concurrencies: Sequence[int], rounds: int, waves: int, max_tokens: int
) -> list[Row]:
    """Run both sides in turn. `waves` requests for each place of the concurrency, at least 16 in a round."""
    rows = []
    for concurrency in concurrencies:
        count = max(16, waves * concurrency)
        pairs = []
        for number in range(rounds + 1):  # the first is the warm-up
            sides = [await run(url, model, concurrency, count, max_tokens) for url in (bare, corral)]
            if number:
                pairs.append(sides)
                say(f"c={concurrency} round {number}: {_brief(sides[0])} | {_brief(sides[1])}")
        rows.append(_row(concurrency, pairs))
    return rows


def _brief(side: Run) -> str:
    return (
        f"{side.tokens_per_s:.0f} tok/s, TTFT {side.ttft_ms(0.5):.0f} ms, "
        f"ITL {side.itl_ms(0.5):.1f}/{side.itl_ms(0.95):.1f} ms"
    )


def _row(concurrency: int, pairs: Sequence[Sequence[Run]]) -> Row:
    def median(side: int, name: str) -> float:
        return float(statistics.median(FIGURES[name](pair[side]) for pair in pairs))

    ratios = {
        name: statistics.median(figure(corral) / max(figure(bare), 1e-9) for bare, corral in pairs)
        for name, figure in FIGURES.items()
    }
    return Row(concurrency, {n: median(0, n) for n in FIGURES}, {n: median(1, n) for n in FIGURES}, ratios)


def table(rows: Sequence[Row]) -> str:
    """A Markdown table: bare, Corral, ratio."""
    lines = ["| concurrency | figure | vLLM's server | Corral | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        for name in FIGURES:
            figures = f"{row.bare[name]:.1f} | {row.corral[name]:.1f} | {row.ratio[name]:.2f}"
            lines.append(f"| {row.concurrency} | {name} | {figures} |")
    return "\n".join(lines)


def verdicts(rows: Sequence[Row]) -> list[str]:
    """What misses the limits, in words."""
    missed = []
    for row in rows:
        if row.ratio["tokens_per_s"] < LIMITS["tokens_per_s"]:
            missed.append(f"c={row.concurrency}: throughput {row.ratio['tokens_per_s']:.2f} of the bare server's")
        more = row.corral["ttft_p50_ms"] - row.bare["ttft_p50_ms"]
        if row.concurrency == 1 and more > LIMITS["ttft_p50_ms"]:
            missed.append(f"c=1: TTFT p50 {more:.1f} ms more")
        for name in ("itl_p50_ms", "itl_p95_ms"):
            if row.ratio[name] > LIMITS["itl"]:
                missed.append(f"c={row.concurrency}: {name} {row.ratio[name]:.2f} times the bare server's")
    return missed


@contextmanager
def bare_server(plan: dict[str, Any]) -> Iterator[str]:
    """vLLM's own server with the engine arguments that Corral uses for this model."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--disable-uvicorn-access-log",
               "--host", "127.0.0.1", "--port", str(port), *plan["arguments"]]  # fmt: skip
    environment = {**os.environ, **plan["environment"], "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


@contextmanager
def corral_service(profile: str) -> Iterator[str]:
    """A service of its own, under its own name and port."""
    name, port = f"bench-{os.getpid()}", free_port()
    command = [str(BIN / "corral"), "up", "--profile", profile, "--name", name, "--port", str(port), "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=START_S)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([str(BIN / "corral"), "down", "--name", name], check=True, stdout=subprocess.DEVNULL)


def engine_plan(profile: str, model: str) -> dict[str, Any]:
    """The model's engine arguments and environment, as `corral engine` tells them."""
    command = [str(BIN / "corral"), "engine", model, "--profile", profile, "--json"]
    plan: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    return plan


def wait_for(url: str, process: subprocess.Popen[bytes], log: Any) -> None:
    """Until `url` answers 200. Raises RuntimeError with the end of the log if the process ends first."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log.seek(0)
            raise RuntimeError(f"vLLM's server ended: {log.read()[-2000:].decode(errors='replace')}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"{url} did not answer within {START_S} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--profile", default="pocket")
    parser.add_argument("--model", default="pocket-8b")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--waves", type=int, default=6, help="requests for each place of the concurrency in a round")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--corral", help="address of a running service")
    parser.add_argument("--bare", help="address of a running vLLM server")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    with ExitStack() as servers:
        corral = given.corral or servers.enter_context(corral_service(given.profile))
        bare = given.bare or servers.enter_context(bare_server(engine_plan(given.profile, given.model)))
        rows = asyncio.run(
            compare(bare, corral, given.model, given.concurrency, given.rounds, given.waves, given.max_tokens)
        )
    missed = verdicts(rows)
    if given.json:
        given.json.write_text(json.dumps({"rows": [row.__dict__ for row in rows], "missed": missed}, indent=1))
    print(table(rows))
    print("\n".join(missed) or "every limit is kept: 0.9 of the throughput, TTFT + 5 ms at c=1, ITL 1.3 times")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
