"""Breaks the parts of a service under load: python -m loadtests.faults [FAULT...].

Starts a service of its own, with two replicas of one model and one of another, breaks one part after the other while
users ask, prints a table as Markdown, and writes all figures as JSON. Service and users share this machine. For the
full disk the service lies on a small one of its own, which only root can mount; for the clock that is set it goes by
one of its own, for which a C compiler is needed. Exits with 1 where a request failed that was not in flight on the
broken part.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from loadtests.faults.clock import Clock, ClockError
from loadtests.faults.disk import DiskError, small_disk
from loadtests.faults.load import Load
from loadtests.faults.measure import FaultError, Measured, measure
from loadtests.faults.parts import Parts
from loadtests.faults.report import content, in_short, table
from loadtests.faults.service import USERS, VICTIM, Whole, running
from loadtests.faults.strikes import Fault, Strikes
from loadtests.servers import ServerError


def main() -> int:
    faults = {each.name: each for each in Strikes(VICTIM).all()}
    parser = argparse.ArgumentParser(prog="python -m loadtests.faults", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(faults)}; without one, all")
    parser.add_argument("--out", type=Path, default=Path("faults.json"), help="where the figures go")
    parser.add_argument("--gateways", type=int, default=2, help="replicas of the gateway")
    parser.add_argument("--state", type=Path, help="state file of a service that runs already and is to be broken")
    given = parser.parse_args()
    if unknown := set(given.faults) - set(faults):
        parser.error(f"no fault {', '.join(sorted(unknown))}; there are {', '.join(faults)}")
    chosen = [faults[name] for name in given.faults or faults]
    try:
        if given.state:
            measured = _broken(Parts(given.state), chosen)
        else:
            with ExitStack() as places:
                folder = Path(places.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
                disk = places.enter_context(small_disk()) if faults["disk"] in chosen else None
                clock = Clock.made(folder) if faults["clock"] in chosen else None
                parts = places.enter_context(running(folder, given.gateways, disk, clock))
                measured = _broken(parts, chosen)
    except (FaultError, ServerError, DiskError, ClockError) as error:
        print(error, file=sys.stderr)
        return 2
    given.out.write_text(json.dumps(content(measured), indent=1))
    print(table(measured))
    return int(any(each.others for each in measured))


def _broken(parts: Parts, faults: list[Fault]) -> list[Measured]:
    """Each in its own time under one load; what was measured is told as it comes."""
    measured, whole = [], Whole(parts)
    for fault in faults:
        with Load(parts.state["address"], USERS, parts.headers).going() as load:
            measured.append(one := measure(parts, load, fault, whole.lacks))
        print(in_short(one), file=sys.stderr)
        for each in one.others:
            print(f"  {each}", file=sys.stderr)
    return measured


if __name__ == "__main__":
    raise SystemExit(main())
