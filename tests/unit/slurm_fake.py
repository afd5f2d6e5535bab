"""A SLURM that tests talk to instead of the real one: sbatch, squeue, sinfo, scancel and scontrol, in memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from slurm.client import SlurmClient
from slurm.errors import SlurmMissing, Unavailable
from slurm.jobs import FIELDS, QUEUE_FORMAT, SEPARATOR
from slurm.partitions import SEPARATOR as COLUMN
from slurm.runner import Result

SILENT = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
CLUSTER = (
    ("debug*", "up", "1-00:00:00", "3", "4", "6000", "(null)", "idle", "(null)"),
    ("gpu", "up", "infinite", "4", "64", "1000000", "gpu:h200:8", "idle", "(null)"),
    ("gpu", "up", "infinite", "2", "32", "500000", "gpu:a100:4", "idle", "(null)"),
)


class FakeSlurm:
    """A Runner. Jobs wait until `run` starts them; whatever is told to end, ends."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.jobs: dict[int, dict[str, str]] = {}
        self.asked: list[tuple[str, ...]] = []
        self.partitions: tuple[tuple[str, ...], ...] = CLUSTER
        self.missing = self.silent = self.loses_answers = self.takes_no_jobs = False
        self.deaf = False  # jobs do not end by themselves
        self.refusal = ""
        self.on_squeue: Callable[[], None] = lambda: None

    async def run(self, argv: Sequence[str]) -> Result:
        self.asked.append(tuple(argv))
        await asyncio.sleep(0)
        if self.missing:
            raise SlurmMissing(argv[0])
        if self.silent:
            return Result(1, "", f"{SILENT}\n")
        return {
            "sinfo": self._sinfo, "sbatch": self._sbatch, "squeue": self._squeue,
            "scancel": self._scancel, "scontrol": self._scontrol,
        }[argv[0]](argv)  # fmt: skip

    def asked_for(self, command: str) -> list[tuple[str, ...]]:
        return [argv for argv in self.asked if argv[0] == command]

    def add(self, name: str, comment: str, **changes: str) -> int:
        job_id = 7 + len(self.jobs)
        self.jobs[job_id] = {
            "JobID": str(job_id), "HetJobID": "N/A", "HetJobOffset": "N/A", "Name": name, "State": "PENDING",
            "Reason": "Priority", "Partition": "debug", "UserName": self.user, "Comment": comment, "NodeList": "",
            "NumNodes": "1", "SubmitTime": "1795247725", "StartTime": "1795250000", "EndTime": "N/A",
            "TimeLeft": "1:00:00", "PriorityLong": "50", "exit_code": "0", "RestartCnt": "0", **changes,
        }  # fmt: skip
        return job_id

    def start(self, job_id: int, nodes: str = "n[1-2]", **changes: str) -> None:
        times = {"StartTime": "1795247726", "EndTime": "1795251326"}
        self.jobs[job_id] |= {
            "State": "RUNNING",
            "Reason": "None",
            "NodeList": nodes,
            "NumNodes": "2",
            **times,
            **changes,
        }

    def end(self, job_id: int, state: str = "COMPLETED", **changes: str) -> None:
        self.jobs[job_id] |= {"State": state, "Reason": "None", **changes}

    def _sinfo(self, _: Sequence[str]) -> Result:
        return Result(0, "".join(COLUMN.join(row) + "\n" for row in self.partitions), "")

    def _sbatch(self, argv: Sequence[str]) -> Result:
        if self.refusal:
            return Result(1, "", f"sbatch: error: Batch job submission failed: {self.refusal}\n")
        text = Path(argv[-1]).read_text()
        name, comment = (re.search(f"^#SBATCH --{key}=(.*)$", text, re.M) for key in ("job-name", "comment"))
        assert name
        assert comment
        if not self.takes_no_jobs:
            self.add(name[1].strip('"'), comment[1].strip('"'))
        if self.loses_answers:
            raise Unavailable("sbatch did not end within 60 s")
        return Result(0, f"{max(self.jobs)}\n", "")

    def _squeue(self, argv: Sequence[str]) -> Result:
        self.on_squeue()
        asked = next((word.removeprefix("--jobs=") for word in argv if word.startswith("--jobs=")), None)
        if asked and int(asked) not in self.jobs:
            return Result(1, "", "slurm_load_jobs error: Invalid job id specified\n")
        rows = [job for job_id, job in self.jobs.items() if asked in (None, str(job_id))]
        if asked is None:
            rows = [row for row in rows if row["State"] in ("PENDING", "RUNNING", "COMPLETING")]
        if f"--format={QUEUE_FORMAT}" in argv:
            waiting = [row for row in rows if row["State"] == "PENDING"]
            return Result(0, "".join(f"{row['JobID']} {row['PriorityLong']}\n" for row in waiting), "")
        return Result(0, "".join(SEPARATOR.join(row[key] for key in FIELDS) + SEPARATOR + "\n" for row in rows), "")

    def _scancel(self, argv: Sequence[str]) -> Result:
        if not (self.deaf and "--batch" in argv):
            self.end(int(argv[-1]), "CANCELLED" if len(argv) == 2 else "COMPLETED")
        return Result(0, "", "")

    def _scontrol(self, argv: Sequence[str]) -> Result:
        if self.refusal:
            return Result(1, "", f"{self.refusal}\n")
        return Result(0, "", "")


async def no_sleep(_: float) -> None:
    await asyncio.sleep(0)


def client(slurm: FakeSlurm, patience_s: float = 0.01) -> SlurmClient:
    return SlurmClient(slurm, patience_s, no_sleep)


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self, now: float = 1_795_250_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(20):  # whatever runs beside gets its turn
            await asyncio.sleep(0)
