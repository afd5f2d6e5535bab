"""One fault under the load: which requests failed, which of them were on the broken part, and when all was back."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.faults.load import Load, Outcome
from loadtests.faults.parts import Parts
from loadtests.faults.strikes import Fault, Struck

POLL_S = 0.05
PATIENCE_S = 120
STEADY, AFTER = 12, 12
"""Complete answers of the part before the fault, and after all is back."""
MARGIN_S = 0.5
"""The log's times are of requests' ends; one may have been sent to the part while it was being killed."""


class FaultError(Exception):
    """The measurement could not be made; the message says what did not happen."""


@dataclass(frozen=True)
class Failed:
    """A request that failed: what the client saw, where the edge had sent it, and when it began, from the fault on."""

    ask: str
    seen: str
    server: str
    began_s: float
    in_flight: bool
    """It was on the broken part when that broke."""


@dataclass(frozen=True)
class Measured:
    """One fault. Seconds are from the moment of the fault."""

    fault: str
    struck: str
    on_it: int
    requests: int
    failed: tuple[Failed, ...]
    retried: int
    first_success_s: float
    failing_s: float
    whole_s: float
    untouched: tuple[str, ...]
    longest_s: float
    """The longest request that was answered, from the fault on."""

    @property
    def others(self) -> tuple[Failed, ...]:
        """Those that failed though they were not on it."""
        return tuple(each for each in self.failed if not each.in_flight)

    @property
    def seen(self) -> Counter[str]:
        return Counter(each.seen for each in self.failed)


def wait(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise FaultError(f"{what} did not happen within {patience_s:g} s")
        time.sleep(POLL_S)


def wait_until_whole(lacks: Callable[[], str], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while lacking := lacks():
        if time.monotonic() > deadline:
            raise FaultError(f"not all capacity was back within {patience_s:g} s; there lacked {lacking}")
        time.sleep(POLL_S)


def measure(parts: Parts, load: Load, fault: Fault, lacks: Callable[[], str]) -> Measured:
    """Break the part while the load goes on, and wait until all is back. Raises FaultError.

    lacks: tells what of the service is not there, in words; empty if all is.
    """
    began = load.clock()
    wait(lambda: len(load.answered_since(began, fault.part)) >= STEADY, "a steady load")
    log_from = parts.edge_log.stat().st_size
    under_way, moment = load.under_way(), load.clock()
    struck = fault.strike(parts)
    broken = load.clock()
    wait(lambda: load.answered_since(broken, fault.part), f"an answer of {fault.part} after the fault")
    wait_until_whole(lacks)
    whole = load.clock()
    wait(lambda: len(load.answered_since(whole, fault.part)) >= AFTER, "a steady load again")
    wait(lambda: not set(under_way) & set(load.under_way()), "the end of what was under way")
    lines = dict(log_lines(parts.edge_log, log_from))
    return _measured(fault, struck, load, lines, (moment, broken, whole), set(under_way))


def _measured(
    fault: Fault,
    struck: Struck,
    load: Load,
    lines: dict[str, Any],
    moments: tuple[float, float, float],
    there: set[str],
) -> Measured:
    moment, broken, whole = moments
    seen = [each for each in load.outcomes if each.ended >= moment]

    def server(outcome: Outcome) -> str:
        return str(lines.get(outcome.id, {}).get("to", ""))

    def on_it(outcome: Outcome) -> bool:
        if outcome.id not in there and outcome.began > broken:
            return False
        return struck.servers is None or server(outcome) in struck.servers or retried(outcome)

    def retried(outcome: Outcome) -> bool:
        return str(lines.get(outcome.id, {}).get("retries", "0")).lstrip("+") != "0"

    failed = tuple(Failed(each.ask.name, each.failure, server(each), each.began - moment, on_it(each))
                   for each in seen if each.failure)  # fmt: skip
    answered = load.answered_since(moment if struck.lasting else broken, fault.part)
    names = {each.ask.name for each in load.outcomes} - {each.ask for each in failed}
    return Measured(
        fault=fault.name,
        struck=struck.what,
        on_it=sum(on_it(each) for each in seen),
        requests=len(seen),
        failed=failed,
        retried=sum(retried(each) for each in seen),
        first_success_s=min(each.ended for each in answered) - moment,
        failing_s=max((each.ended - moment for each in seen if each.failure), default=0.0),
        whole_s=whole - moment,
        untouched=tuple(sorted(names)),
        longest_s=max((each.ended - each.began for each in seen if not each.failure), default=0.0),
    )


def log_lines(log: Path, start: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Id and content of the edge's lines from this byte on."""
    with log.open("rb") as file:
        file.seek(start)
        for line in file:
            try:
                told = json.loads(line)
                yield told["id"], told
            except (ValueError, KeyError):
                continue
