"""A rendered job script that really runs, with fakes for the commands of SLURM that it calls."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from slurm.config import ClusterConfig
from slurm.folder import JobFolder
from slurm.script import JobSpec, render

SRUN = r"""#!/bin/bash
printf '%s\0' "$@" >"$FAKES/srun.$$"
for word; do
  case $word in --nodelist=*) node=${word#*=} ;; --*) ;; *) break ;; esac
  shift
done
SLURMD_NODENAME=$node exec "$@"
"""

# A head runs until it is told to end, a worker until there is a stop file; `deaf` ones do not look.
PYTHON = r"""#!/bin/bash
folder=$4 node=$5 role=$6 group=$7
echo "$role $node $group ${VALUE-}" >>"$FAKES/started"
while :; do
  [ -e "$FAKES/end-$node" ] && exit "$(cat "$FAKES/end-$node")"
  [ -e "$FAKES/deaf-$node" ] || { [ -e "$folder/stop" ] && exit 0; }
  /bin/sleep 0.02
done
"""

SBATCH = r"""#!/bin/bash
echo "$@" >>"$FAKES/sbatch-asked"
compgen -e | sort >"$FAKES/sbatch-environment"
[ -e "$FAKES/refuses" ] && { echo "sbatch: error: Invalid account" >&2; exit 1; }
echo "$((100 + $(wc -l <"$FAKES/sbatch-asked")));cluster"
"""

# Whole seconds take a tenth.
SLEEP = r"""#!/bin/bash
case $1 in *.*) exec /bin/sleep "$1" ;; *) exec /bin/sleep "${1%?}.${1: -1}" ;; esac
"""

FAKES = {
    "srun": SRUN,
    "scontrol": '#!/bin/bash\necho "$3" | tr , "\\n"\n',
    "squeue": "#!/bin/bash\nprintf '2000\\n1000\\n'\n",
    "python": PYTHON,
    "sbatch": SBATCH,
    "scancel": '#!/bin/bash\necho "$@" >>"$FAKES/scancel-asked"\n',
    "sleep": SLEEP,
}


def until(happened: Callable[[], object], limit_s: float = 10) -> None:
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@dataclass
class Job:
    """One run of a rendered script, and what it left behind."""

    tmp: Path
    folder: JobFolder
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self, nodes: str = "n1,n2,n3", environ: dict[str, str] | None = None, **changes: Any) -> None:
        cluster = ClusterConfig(**{"walltime": "1:00:00", "shared": str(self.tmp), "local": None, **changes})
        spec = JobSpec(cluster, "test", self.folder.path, str(self.tmp / "fakes/python"), stop_s=1)
        script = self.tmp / "job.sh"
        script.write_text(render(spec))
        job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": nodes, "SLURMD_NODENAME": "n1"}
        fakes = self.tmp / "fakes"
        with (self.tmp / "stderr").open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", str(script)],
                env={"PATH": f"{fakes}:/usr/bin:/bin", "FAKES": str(fakes), **job, **(environ or {})},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def started(self) -> list[str]:
        path = self.tmp / "fakes/started"
        return sorted(line.strip() for line in path.read_text().splitlines()) if path.exists() else []

    def wait_for(self, count: int) -> None:
        until(lambda: len(self.started()) == count)

    def end(self, node: str, status: int = 0) -> None:
        beside = self.tmp / "fakes/status"
        beside.write_text(str(status))
        beside.rename(self.tmp / f"fakes/end-{node}")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def status(self) -> int:
        """How the script ended; nothing that it started may be left."""
        assert self.process is not None
        status = self.process.wait(20)
        until(lambda: not self.left(), limit_s=1)  # a fake's `sleep 0.02` outlives it by as much
        return status

    def left(self) -> list[psutil.Process]:
        """What of it still runs; the dead that nobody has buried yet do not count."""
        assert self.process is not None
        return [each for each in psutil.process_iter() if _group(each) == self.process.pid]

    def said(self) -> str:
        return (self.tmp / "stderr").read_text()

    def events(self) -> list[str]:
        return [line.split(" ", 1)[1] for line in self.folder.timeline.read_text().splitlines()]

    def order(self, name: str, joins: str | None = None) -> Path:
        """Have a job submitted; returns the order."""
        path = self.tmp / "other jobs" / name
        path.mkdir(parents=True)
        if joins:
            (path / "joins").write_text(joins)
        order = self.folder.path / "submit" / name
        order.parent.mkdir(exist_ok=True)
        beside = order.with_name(f".{name}")
        beside.write_text(f"{path}\n")
        return beside.rename(order)

    def asked(self, command: str) -> list[str]:
        """The arguments of each call of sbatch or scancel."""
        path = self.tmp / f"fakes/{command}-asked"
        return path.read_text().splitlines() if path.exists() else []

    def sruns(self) -> list[list[str]]:
        return [path.read_text().split("\0")[:-1] for path in sorted((self.tmp / "fakes").glob("srun.*"))]


def _group(process: psutil.Process) -> int:
    try:
        return 0 if process.status() == psutil.STATUS_ZOMBIE else os.getpgid(process.pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return 0
