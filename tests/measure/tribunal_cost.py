"""What a tribunal costs beside its model calls, over fake models that answer at once.

    python -m tests.measure.tribunal_cost [SITTINGS]

Milliseconds a step: a sitting's wall time, from the ask to the last envelope, over the number of its model calls.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

from deployments.tribunal.config import STRATEGIES
from tests.unit.tribunal_fakes import Panel, Voice, asked, tribunals_over

SITTINGS = 200
PANELS = (3, 8)
CRITIQUE = {"faults": ["too vague", "no source"], "verdict": "revise"}
TEXT = "The llamas of this house live in the corral behind the barn, and graze on the hill. " * 10


def panel_of(size: int) -> Panel:
    """Everyone says something else, in 160 words, again and again, so that no strategy ends before its last round."""
    names = [f"m{number}" for number in range(size)]
    return Panel(**{
        name: Voice([f"{name} {count}: {TEXT}" for count in range(size)], reconsidered=f"{name} again: {TEXT}",
                    revision=f"{name} revised: {TEXT}", synthesis=TEXT, critique=CRITIQUE)
        for name in names
    })  # fmt: skip


async def one(strategy: str, size: int, deltas: bool) -> tuple[int, float]:
    """Steps of one sitting, and milliseconds a step."""
    panel = panel_of(size)
    config = {
        "strategy": strategy,
        "rounds": 2,
        "review_max_tokens": 4096,
        "stop": {"consensus": None, "leader": False},
    }
    tribunals = tribunals_over(panel, {"default": {"members": list(panel.speakers), **config}})
    began = time.perf_counter()
    result: dict[str, Any] = {}
    async for envelope in tribunals.events(asked(deltas=deltas)):
        result = envelope.get("result") or result
    calls: int = result["usage"]["calls"]
    return calls, 1000 * (time.perf_counter() - began) / calls


async def measure(sittings: int) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for strategy in STRATEGIES:
        for size in PANELS:
            for deltas in (False, True):
                gc.collect()
                taken = [await one(strategy, size, deltas) for _ in range(sittings)]
                each = [ms for _, ms in taken]
                rows.append(
                    (strategy, size, "yes" if deltas else "no", taken[0][0], median(each), p99(each), max(each))
                )
    return rows


def p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100)[98]


def main() -> None:
    sittings = int(sys.argv[1]) if len(sys.argv) > 1 else SITTINGS
    print(f"{'strategy':18}{'members':>8}{'deltas':>8}{'steps':>7}{'median':>9}{'p99':>9}{'max':>9}  ms a step")
    for name, size, deltas, steps, *figures in asyncio.run(measure(sittings)):
        print(f"{name:18}{size:8}{deltas:>8}{steps:7}" + "".join(f"{figure:9.2f}" for figure in figures))


if __name__ == "__main__":
    main()
