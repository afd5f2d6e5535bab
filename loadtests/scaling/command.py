"""The command: python -m loadtests.scaling.

Lets closed-loop users ask one model of a running service: few and then many at once (spike), none at once (stop),
slowly more and fewer (wave), or the three in turn (all). Looks once a second how many replicas serve, and writes
scaling.json, report.md, scaling.svg and scaling.png beside ticks.jsonl and requests.jsonl, which grow as it goes.
Ctrl-C ends it with what it measured. The API key is CORRAL_API_KEY in the environment. It exits with 1 if a request
failed; one that is still under way long after the load has ended has failed, too.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from loadtests.client.endpoint import EndpointError
from loadtests.report.words import plain
from loadtests.scaling.errors import ScalingError
from loadtests.scaling.measure import Asking, Measured, measure
from loadtests.scaling.report import table
from loadtests.scaling.schedule import Course, Pattern
from loadtests.scaling.timeline import Tick

ALL = "all"
EVERY_S = 10.0
"""A line at least so often."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if a request failed, 2 if nothing could be measured, 130 if it was interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    folder = options.out or Path(f"scaling-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    try:
        measured = asyncio.run(interruptible(asking_of(options, given), folder))
    except (EndpointError, ScalingError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print("\n".join(["", *table(measured.figures), "", f"Written to {folder}"]))
    if measured.head.ended_because:
        print(f"It ended early: {plain(measured.head.ended_because)}", file=sys.stderr)
    return 130 if "interrupted" in measured.head.ended_because else 1 if measured.failed else 0


async def interruptible(asking: Asking, folder: Path) -> Measured:
    """Measure; the first Ctrl-C ends the load, a second one is KeyboardInterrupt."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    task = asyncio.current_task()

    def interrupt() -> None:
        if stopped.is_set() and task is not None:
            task.cancel()
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        return await measure(asking, folder, key=os.environ.get("CORRAL_API_KEY"), stopped=stopped, tell=_teller())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _teller() -> Callable[[Tick], None]:
    """A line whenever replicas change, and every ten seconds."""
    last: list[Tick] = []

    def tell(tick: Tick) -> None:
        before = last[-1] if last else None
        changed = before is None or (tick.replicas, tick.wanted) != (before.replicas, before.wanted)
        if before is None or changed or tick.at_s - before.at_s >= EVERY_S:
            last[:] = [tick]
            print(
                f"{tick.at_s:6.1f} s  {tick.users:4} users  {tick.in_flight:4} in flight  "
                f"{_told(tick.replicas)} replicas serve, {_told(tick.wanted)} wanted",
                file=sys.stderr,
                flush=True,
            )

    return tell


def _told(number: int | None) -> str:
    return "?" if number is None else str(number)


def asking_of(options: argparse.Namespace, given: Sequence[str]) -> Asking:
    """From parsed arguments; `given` is told in the report."""
    pattern = options.pattern
    return Asking(
        url=options.url,
        model=options.model,
        patterns=tuple(Pattern) if pattern == ALL else (Pattern(pattern),),
        course=Course(
            base=options.base, users=options.users, lead_s=options.lead, hold_s=options.hold, wave_s=options.wave,
            settle_s=options.settle,
        ),
        input_tokens=options.input_tokens,
        output_tokens=options.output_tokens,
        think_s=options.think,
        timeout_s=options.timeout,
        limit_ms=options.ttft_ms,
        target=options.target,
        most=options.most,
        seed=options.seed,
        command=shlex.join(["python", "-m", "loadtests.scaling", *given]),
    )  # fmt: skip


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    course = Course()
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", help="address of the service (%(default)s)")
    add("--model", required=True, help="the model that is asked")
    add("--pattern", choices=[*Pattern, ALL], default=ALL, help="(%(default)s)")
    add("--users", type=_whole(1), default=course.users, help="at most (%(default)s)")
    add("--base", type=_whole(0), default=course.base, help="users before a spike and at a wave's feet (%(default)s)")
    add("--lead", type=_seconds, default=course.lead_s, help="seconds before a spike (%(default)g)")
    add("--hold", type=_seconds, default=course.hold_s, help="seconds with all users (%(default)g)")
    add("--wave", type=_seconds, default=course.wave_s, help="seconds of a wave (%(default)g)")
    add(
        "--settle",
        type=_seconds,
        default=course.settle_s,
        help="seconds at most that replicas are waited for (%(default)g)",
    )
    add("--input-tokens", type=_whole(1), default=64, help="of a prompt (%(default)s)")
    add("--output-tokens", type=_whole(1), default=64, help="of an answer (%(default)s)")
    add(
        "--think",
        type=_seconds,
        default=0.0,
        help="seconds from an answer to the next question, on average (%(default)g)",
    )
    add("--timeout", type=_positive, default=120.0, help="seconds for one request (%(default)g)")
    add("--ttft-ms", type=_positive, default=1000.0, help="what TTFT p95 should be under (%(default)g)")
    add("--target", type=_positive, help="the profile's target_ongoing_requests, to tell what load needs what replicas")
    add("--most", type=_whole(1), help="its max_replicas, so that no load needs more")
    add("--seed", type=_whole(0), default=1, help="the same seed asks the same (%(default)s)")
    add("--out", type=Path, help="a new folder (scaling-DATE-TIME)")
    return parser


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return read


def _seconds(text: str) -> float:
    return _number(text, 0.0)


def _positive(text: str) -> float:
    return _number(text, math.ulp(0.0))


def _number(text: str, least: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= least):
        raise argparse.ArgumentTypeError(f"{text!r} is no number {'from 0 on' if least == 0 else 'above 0'}")
    return value
