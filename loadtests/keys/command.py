"""What is typed: which measurement, of which model, for how long.

The exit status is 1 where an aim is missed, and 2 where nothing could be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from loadtests.keys.admission import admission
from loadtests.keys.aims import Judged, told
from loadtests.keys.fairness import fairness
from loadtests.keys.overload import Load, overload
from loadtests.keys.service import POCKET
from loadtests.servers import ServerError

LONGEST_S = 3600
DESCRIPTION = (
    "Starts services of one pocket model; they and the client share this machine, where the client goes first for the "
    "processors if it is root's. Exits with 1 where an aim is missed."
)


def main() -> int:
    given = parsed()
    os.environ.pop("CORRAL_API_KEY", None)  # the services that are started here have others
    with ExitStack() as stack:
        os.environ["CORRAL_STATE_DIR"] = stack.enter_context(tempfile.TemporaryDirectory())
        try:
            return 0 if told(given.measure(given, stack)) else 1
        except (RuntimeError, ServerError) as error:
            print(f"nothing was measured: {error}", file=sys.stderr)
            return 2


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """`measure` is what to call."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.keys", description=DESCRIPTION)
    what = parser.add_subparsers(required=True, metavar="admission|fairness|overload")
    one = what.add_parser("admission", help="a request of one token with keys and without, in turn")
    one.set_defaults(measure=_admission)
    one.add_argument("--rounds", type=number(int, 1, 100), default=4)
    one = what.add_parser("fairness", help="first tokens of a quiet key alone and beside another key's flood, in turn")
    one.set_defaults(measure=_fairness)
    one.add_argument("--rounds", type=number(int, 1, 100), default=4)
    _model(one)
    one.add_argument("--users", type=number(int, 1, 5000), default=150, help="of the key that floods")
    one.add_argument("--words", type=number(int, 1, 1000), default=100, help="of a prompt")
    one.add_argument("--processes", type=number(int, 1, 32), default=1, help="of the flood")
    one = what.add_parser("overload", help="what a service answers at its limit, and at twice that")
    one.set_defaults(measure=_overload)
    _model(one)
    one.add_argument("--seconds", type=number(float, 5, LONGEST_S), default=300, help="of an overload")
    one.add_argument("--rounds", type=number(int, 1, 100), default=1, help="of peak and overload in turn")
    one.add_argument("--tokens", type=number(int, 1, 1500), default=64, help="of an answer")
    one.add_argument("--words", type=number(int, 1, 1000), default=20, help="of a prompt")
    one.add_argument("--keys", type=number(int, 1, 100), default=4, help="of equal weight")
    one.add_argument("--users", type=number(int, 1, 500), default=128, help="of the closed loop that finds the peak")
    one.add_argument("--processes", type=number(int, 1, 32), default=2, help="of the client")
    return parser.parse_args(arguments)


def number(kind: Callable[[str], float], least: float, most: float) -> Callable[[str], float]:
    """For argparse: a number within bounds."""

    def read(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    read.__name__ = kind.__name__  # what argparse says it is not
    return read


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=POCKET, default="pocket-8b")


def _admission(given: argparse.Namespace, stack: ExitStack) -> list[Judged]:
    return asyncio.run(admission(given.rounds, stack))


def _fairness(given: argparse.Namespace, stack: ExitStack) -> list[Judged]:
    return asyncio.run(fairness(given.model, given.users, given.words, given.rounds, given.processes, stack))


def _overload(given: argparse.Namespace, stack: ExitStack) -> list[Judged]:
    load = Load(
        given.model, given.words, given.tokens, given.keys, given.users, given.processes, given.seconds, given.rounds
    )
    return overload(load, Path(os.environ["CORRAL_STATE_DIR"]), stack)
