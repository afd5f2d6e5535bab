"""Corral's one address beside what people would use instead, on the same engine arguments: make bench.

    python -m loadtests.against_vllm [--plain] [--out FOLDER]

Starts Corral and vLLM's own server and has `corral bench --against` ask both in turn (A B A B); then the same with Ray
Serve's plain build_openai_app (--plain); then many users of the smallest model. Each comparison leaves a run and its
report in a folder of its own. Client, servers and engines share this machine. Exits with 1 where an aim is missed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from loadtests.servers import (
    CORRAL,
    EnginePlan,
    ServerError,
    bare_server,
    corral_service,
    engine_plan,
    plain_openai_app,
)

USERS, MOST, MANY = "1,16,64", "64", "128"
LIMITS = "itl=50"
"""What `holds N users` means in these reports: the paper's 50 ms, as the time between two tokens."""
NO_FAILURE = "failed_share<=0"
BESIDE_VLLM = (
    f"output_tokens_per_s.ratio>=0.95@{MOST},itl_p50.ratio<=1.2@1+16+64,itl_p95.ratio<=1.2@1+16+64,"
    f"ttft_p50.difference<=3@1,{NO_FAILURE}"
)
BESIDE_PLAIN = f"output_tokens_per_s.ratio>=2.3@{MOST},{NO_FAILURE}"
Start = Callable[[EnginePlan], AbstractContextManager[str]]


@dataclass(frozen=True)
class Comparison:
    """One call of `corral bench`: who is beside Corral, at which loads, and what is to be reached."""

    name: str
    title: str
    model: str
    users: str
    aims: str
    beside: Start | str | None = None
    """How to start the other one, or its address."""


def comparisons(given: argparse.Namespace) -> list[Comparison]:
    bare = Comparison(
        "vllm", "Corral beside vLLM's own server", given.model, USERS, BESIDE_VLLM, given.bare or bare_server
    )
    plain = Comparison(
        "build-openai-app", "Corral beside plain build_openai_app", given.model, MOST, BESIDE_PLAIN, plain_openai_app
    )
    many = Comparison("many-users", f"{MANY} users of {given.many}", given.many, MANY, NO_FAILURE)
    return [bare, *([plain] if given.plain else []), many]


def compared(each: Comparison, given: argparse.Namespace, corral: str, out: Path) -> int:
    """The exit code of its `corral bench`. Raises ServerError where the other one does not start."""
    with _beside(each, given.profile) as other:
        against = ["--against", other, "--against-name", each.name] if other else []
        return bench(
            "--url", corral, "--profile", given.profile, *against, "--models", each.model, "--concurrency", each.users,
            "--lengths", f"{given.input_tokens}:{given.output_tokens}", "--repeats", str(given.repeats),
            "--requests-per-user", str(given.requests_per_user), "--limits", LIMITS, "--no-stop",
            "--aims", each.aims, "--title", each.title, "--out", str(out / each.name),
        )  # fmt: skip


def _beside(each: Comparison, profile: str) -> AbstractContextManager[str | None]:
    if each.beside is None or isinstance(each.beside, str):
        return nullcontext(each.beside)
    return each.beside(engine_plan(profile, each.model))


def bench(*arguments: str) -> int:
    """Run `corral bench`; interrupted, it is told to end and is waited for, as it writes what it has."""
    command = [str(CORRAL), "bench", *arguments]
    sys.stderr.write(f"\n{shlex.join(['corral', *command[1:]])}\n")
    # in a session of its own it hears of Ctrl-C from here alone, and once
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise


def run(given: argparse.Namespace, out: Path) -> int:
    """All comparisons; 1 if any missed an aim or did not end well. Raises ServerError."""
    with nullcontext(given.corral) if given.corral else corral_service(given.profile) as corral:
        codes = {each.title: compared(each, given, corral, out) for each in comparisons(given)}
    bad = [title for title, code in codes.items() if code]
    print("\n".join(f"not as it should be: {title}" for title in bad) or f"every aim is kept; the reports: {out}")
    return 1 if bad else 0


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--profile", default="pocket")
    parser.add_argument("--model", default="pocket-8b")
    parser.add_argument("--many", default="pocket-1b", metavar="MODEL", help=f"whom {MANY} users ask at once")
    parser.add_argument("--plain", action="store_true", help="also beside Ray Serve's plain build_openai_app")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests-per-user", type=int, default=6)
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--corral", metavar="URL", help="a service that runs already, of the same profile")
    parser.add_argument("--bare", metavar="URL", help="a vLLM server that runs already, on the same engine arguments")
    parser.add_argument("--out", type=Path, help="default: reports/bench-DATE-TIME")
    return parser.parse_args(given)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    given = arguments()
    for number in (signal.SIGTERM, signal.SIGINT):  # or the servers would be left behind
        signal.signal(number, _interrupt)
    if not given.corral:
        os.environ.pop("CORRAL_API_KEY", None)  # the service that is started here has none
    try:
        return run(given, given.out or Path("reports") / f"bench-{datetime.now():%Y-%m-%d-%H%M%S}")
    except ServerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
