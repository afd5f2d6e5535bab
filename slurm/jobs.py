"""Job: one job as squeue tells of it.

Seen on SLURM 22.05: `squeue --json` needs a plugin that not every site has, and its layout differs between
releases. `squeue -O` with widths and a control character behind each field is the same everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby

from slurm.hostlist import expand_hostlist
from slurm.walltime import parse_limit

SEPARATOR = "\x1f"

FIELDS = {
    "JobID": 20, "HetJobID": 20, "HetJobOffset": 12, "Name": 512, "State": 32, "Reason": 256, "Partition": 256,
    "UserName": 128, "Comment": 1024, "NodeList": 8192, "NumNodes": 12, "SubmitTime": 24, "StartTime": 24,
    "EndTime": 24, "TimeLeft": 24, "PriorityLong": 24, "exit_code": 16, "RestartCnt": 12,
}  # fmt: skip
FORMAT = ",".join(f"{name}:{width}{SEPARATOR}" for name, width in FIELDS.items())
"""What to give `squeue -O`; a wider value would be cut at its width."""
QUEUE_FORMAT = "%i %Q"


class JobState(StrEnum):
    """SLURM's states; one that a later release adds is OTHER."""

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    COMPLETING = "COMPLETING"
    REQUEUED = "REQUEUED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    REQUEUE_FED = "REQUEUE_FED"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    RESIZING = "RESIZING"
    SIGNALING = "SIGNALING"
    STAGE_OUT = "STAGE_OUT"
    STOPPED = "STOPPED"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    REVOKED = "REVOKED"
    OTHER = "OTHER"

    @classmethod
    def _missing_(cls, value: object) -> JobState:
        return cls.OTHER

    @property
    def waiting(self) -> bool:
        """It has no nodes yet, or again none."""
        return self in WAITING

    @property
    def ended(self) -> bool:
        """It will not run again."""
        return self in ENDED


WAITING = frozenset(
    {JobState.PENDING, JobState.REQUEUED, JobState.REQUEUE_HOLD, JobState.REQUEUE_FED, JobState.SPECIAL_EXIT}
)
ENDED = frozenset(
    {
        JobState.COMPLETED, JobState.CANCELLED, JobState.FAILED, JobState.TIMEOUT, JobState.NODE_FAIL,
        JobState.PREEMPTED, JobState.BOOT_FAIL, JobState.DEADLINE, JobState.OUT_OF_MEMORY, JobState.REVOKED,
    }
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A job; a heterogeneous one is its leader with the nodes of all components. Times are unix seconds.

    reason:    why it waits or ended, in SLURM's words; "" if there is none.
    nodes:     empty while it waits.
    starts_at: when it started; while it waits, SLURM's estimate, or None.
    ends_at:   when the walltime ends it, or when it ended.
    exit_code: of the batch script once it ended, `signal` what ended it instead.
    """

    id: int
    name: str
    state: JobState
    reason: str
    partition: str
    user: str
    comment: str
    nodes: tuple[str, ...]
    node_count: int
    submitted_at: float | None
    starts_at: float | None
    ends_at: float | None
    time_left: timedelta | None
    priority: int
    exit_code: int | None
    signal: int | None
    restarts: int


def parse_jobs(text: str) -> list[Job]:
    """What `squeue -h -O FORMAT` printed. Raises ValueError if it was something else."""
    rows = sorted((_row(line) for line in text.splitlines() if line.strip()), key=_place)
    return [_merged([_job(row) for row in group]) for _, group in groupby(rows, key=lambda row: _place(row)[0])]


def _row(line: str) -> dict[str, str]:
    values = [value.strip() for value in line.split(SEPARATOR)]
    if len(values) < len(FIELDS):
        raise ValueError(f"squeue printed a line that cannot be read: {line[:200]!r}")
    return dict(zip(FIELDS, values, strict=False))


def _place(row: dict[str, str]) -> tuple[int, int]:
    """The job, and the component in it."""
    leader = row["HetJobID"]
    return (int(leader), int(row["HetJobOffset"])) if leader.isdigit() and leader != "0" else (int(row["JobID"]), 0)


def _merged(components: list[Job]) -> Job:
    leader = components[0]
    nodes = tuple(dict.fromkeys(node for job in components for node in job.nodes))
    return replace(leader, nodes=nodes, node_count=sum(job.node_count for job in components))


def _job(row: dict[str, str]) -> Job:
    state = JobState(row["State"])
    code, signal = _ending(row["exit_code"]) if state.ended else (None, None)
    return Job(
        id=int(row["JobID"]),
        name=row["Name"],
        state=state,
        reason=_words(row["Reason"]),
        partition=row["Partition"],
        user=row["UserName"],
        comment=_words(row["Comment"]),
        nodes=() if state.waiting else expand_hostlist(_words(row["NodeList"])),
        node_count=_integer(row["NumNodes"]),
        submitted_at=parse_time(row["SubmitTime"]),
        starts_at=parse_time(row["StartTime"]),
        ends_at=parse_time(row["EndTime"]),
        time_left=parse_limit(row["TimeLeft"]),
        priority=_integer(row["PriorityLong"]),
        exit_code=code,
        signal=signal,
        restarts=_integer(row["RestartCnt"]),
    )


def parse_time(text: str) -> float | None:
    """Unix seconds from what SLURM prints (with SLURM_TIME_FORMAT=%s, or its own ISO form in local time)."""
    try:
        if text.isdecimal():
            return float(text)
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _ending(status: str) -> tuple[int | None, int | None]:
    """wait(2)'s status -> exit code or signal."""
    number = _integer(status)
    return (None, number & 127) if number & 127 else (number >> 8, None)


def _integer(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _words(text: str) -> str:
    return "" if text in ("None", "(null)", "N/A") else text


def waiting_before(queue: str, job: Job) -> int:
    """How many jobs wait before `job`: those of a higher priority, and older ones of the same.

    queue: what `squeue -h -t PENDING -p PARTITION -o QUEUE_FORMAT` printed, parts of jobs among it.
    """
    rows = (re.fullmatch(r"(\d+)\S* (\d+)", line.strip(), re.ASCII) for line in queue.splitlines())
    keys = {(-int(row[2]), int(row[1])) for row in rows if row}
    return sum(key < (-job.priority, job.id) for key in keys)
