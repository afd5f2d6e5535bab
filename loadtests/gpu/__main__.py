"""The bench on a GPU, from one user to 256, Corral beside bare vLLM: python -m loadtests.gpu --out FOLDER.

Needs this repository, Python 3.11 or 3.12, and the wheels of its `gpu` extra; no network and no weights: the shapes of
Llama 3.2 1B and 3B, 3.1 8B and 70B (FP8) are exact and their weights random, which costs the same time. Real ones are
taken by --weights llama-3.2-1b=FOLDER.

    python -m loadtests.gpu --plan                        what it would do, how long it takes, whether it fits
    python -m loadtests.gpu --out reports/gpu             all of it, hours; Ctrl-C, and the same command goes on
    python -m loadtests.gpu --minutes 9 --only llama-3.2-1b   what tells most first, and an end in time
    python -m loadtests.gpu --dry-run                     the same steps on a CPU with shrunken shapes, minutes

The report is FOLDER/report.html (report.md, report.json, figures.csv), written anew as points are measured.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from loadtests.gpu.combined import verdicts
from loadtests.gpu.conduct import SERVERS, Conductor
from loadtests.gpu.deadline import Deadline
from loadtests.gpu.options import Options, options_of
from loadtests.gpu.profile import write_places
from loadtests.gpu.room import GIB, H200, Gpu, rooms_of, this_gpu
from loadtests.gpu.serving import end_leftovers
from loadtests.gpu.steps import by_worth, steps
from loadtests.servers import ServerError
from loadtests.sweep.errors import BenchError

END_S = 45
"""Of the time given, for the end of the servers and the report."""
BUSY = 0.02
"""Of the GPU's memory: more than that is somebody's."""
INTERRUPTED = 130


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(options: Options) -> int:
    """The exit status: 0, or 1 where something went wrong, 2 without a GPU."""
    deadline = Deadline.after(options.minutes).earlier(END_S)
    gpu = None if options.dry else this_gpu()
    if gpu is None and not options.dry and not options.plan:
        say("no GPU was found (nvidia-smi tells of none): --dry-run tries the script on a CPU, --plan prints its steps")
        return 2
    write_places(options)
    rooms = rooms_of(options, _memory(options, gpu))
    _print_steps(options, gpu, steps(options, rooms))
    if options.plan:
        return 0
    for ended in end_leftovers(options.out):
        say(f"an earlier run had left {ended} up; it was ended")
    _look_for_others(gpu)
    well = Conductor(options, rooms, deadline, say, SERVERS).run()
    print("\n".join(verdicts(options)))
    if (options.out / "report.html").exists():
        print(f"report: {options.out / 'report.html'}")
    return 0 if well else 1


def _memory(options: Options, gpu: Gpu | None) -> int:
    if options.gpu_memory_gib is not None:
        return int(options.gpu_memory_gib * GIB)
    return gpu.memory if gpu else H200


def _print_steps(options: Options, gpu: Gpu | None, lines: list[str]) -> None:
    if not options.dry:
        what = gpu.name if gpu else "none is here; planned for one with"
        print(f"GPU: {what} {_memory(options, gpu) / GIB:.1f} GiB")
    print("\n".join(lines))
    if options.plan:
        print("points in their order, those of the aims first:", *by_worth(options), sep="\n  ")
    sys.stdout.flush()


def _look_for_others(gpu: Gpu | None) -> None:
    """Says it if somebody else holds memory of the GPU; measured again, for leftovers were ended."""
    now = this_gpu() if gpu else None
    if now and now.used > BUSY * now.memory:
        say(f"other processes hold {now.used / GIB:.1f} GiB of the GPU: what they do is in the figures")


def _interrupt(*_: Any) -> None:
    """As Ctrl-C, which ends the servers too."""
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        raise SystemExit(main(options_of(sys.argv[1:])))
    except KeyboardInterrupt:
        say("interrupted: what was measured is kept, and the same command goes on with it")
        raise SystemExit(INTERRUPTED) from None
    except (BenchError, ServerError) as error:
        say(str(error))
        raise SystemExit(1) from None
