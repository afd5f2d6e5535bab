"""SlurmClient: submit, look, change, cancel. Every call is one command of SLURM's, its argv a list."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from slurm.errors import NoSuchJob, Refused, SlurmError, Unavailable, Unsure
from slurm.jobs import FORMAT as JOB_FORMAT
from slurm.jobs import QUEUE_FORMAT, Job, parse_jobs, parse_time, waiting_before
from slurm.partitions import FORMAT as PARTITION_FORMAT
from slurm.partitions import Partition, parse_partitions
from slurm.runner import LocalRunner, Result, Runner
from slurm.walltime import format_walltime

UNAVAILABLE = re.compile(
    r"unable to contact slurm|unable to establish (control|controller)|connect(ion)? (failure|refused|timed out)"
    r"|socket timed out|zero bytes were transmitted|standby mode|temporarily unable|unexpected message received"
    r"|munge encode failed|protocol authentication error|getaddrinfo|resource temporarily unavailable",
    re.I,
)
NOT_SENT = re.compile(r"connect failure|unable to establish|munge encode failed|getaddrinfo", re.I)
UNKNOWN_JOB = re.compile(r"invalid job id", re.I)

REFUSALS = (
    (r"account", "account"),
    (r"qos", "qos"),
    (r"partition name|invalid partition|permitted to use this partition|--partition", "partition"),
    (r"time limit|--time\b", "walltime"),
    (r"reservation", "reservation"),
    (r"feature|--constraint", "constraint"),
    (r"gres|generic resource", "groups.gpus"),
    (r"memory|--mem\b", "groups.memory"),
    (r"node count|invalid node name|--nodes", "groups.nodes"),
    (r"cpu count|processors|--cpus-per-task", "groups.cpus"),
    (r"node configuration", "groups"),
    (r"--signal", "drain_s"),
    (r"unrecognized option|invalid directive", "extra"),
)
"""What sbatch says -> the field of ClusterConfig that it is about; the first that matches counts."""


class SlurmClient:
    """SLURM through its commands. Waits up to `patience_s` for a controller that does not answer.

    Raises SlurmMissing, Unavailable, and what each method says.
    """

    def __init__(
        self,
        runner: Runner | None = None,
        patience_s: float = 60,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._runner = runner or LocalRunner()
        self._patience_s = patience_s
        self._sleep = sleep

    async def submit(self, script: Path, extra: Sequence[str] = ()) -> int:
        """Submit; returns the job's id. Raises Refused; Unsure if the answer was lost: look for the job by name."""
        result = await self._run("sbatch", "--parsable", *extra, str(script), again=_was_not_sent)
        match = re.search(r"^(\d+)(;.*)?$", result.out, re.M | re.A)
        if not match:
            raise Refused(f"sbatch printed no job id but {result.out.strip()!r}")
        return int(match[1])

    async def job(self, job_id: int) -> Job | None:
        """The job, or None if SLURM does not know it, or no more (it forgets minutes after a job's end)."""
        try:
            jobs = await self._squeue(f"--jobs={job_id}")
        except NoSuchJob:
            return None
        return next((job for job in jobs if job.id == job_id), None)

    async def jobs(self, user: str | None = None, name: str = "", comment: str = "", ended: bool = False) -> list[Job]:
        """Jobs (of `user`) whose name and comment begin so; with `ended` also those that SLURM still remembers."""
        states = "all" if ended else "PENDING,CONFIGURING,RUNNING,SUSPENDED,COMPLETING,REQUEUED,STAGE_OUT,STOPPED"
        jobs = await self._squeue(*([f"--user={user}"] if user else []), states=states)
        return [job for job in jobs if job.name.startswith(name) and job.comment.startswith(comment)]

    async def waiting_before(self, job: Job) -> int:
        """How many jobs wait before it in its partition; little to ask, however long the queue is."""
        options = ("--noheader", "--states=PENDING", f"--partition={job.partition}", f"--format={QUEUE_FORMAT}")
        return waiting_before((await self._run("squeue", *options)).out, job)

    async def cancel(self, job_id: int) -> None:
        """End it, waiting or running; no error if it has ended or is not known. Raises Refused."""
        await self._run("scancel", str(job_id), job_id=job_id)

    async def signal(self, job_id: int, signal: str, batch: bool = True) -> None:
        """Send a signal (TERM, USR1) to the batch script, or to the steps. Raises NoSuchJob, Refused if it waits."""
        where = ["--batch"] if batch else []
        await self._run("scancel", *where, f"--signal={signal}", str(job_id), job_id=job_id)

    async def extend(self, job_id: int, walltime: timedelta) -> None:
        """Set a new walltime, counted from the start. Raises Refused where only the site's staff may, NoSuchJob."""
        limit = format_walltime(walltime)
        await self._run("scontrol", "update", f"JobId={job_id}", f"TimeLimit={limit}", job_id=job_id, field="walltime")

    async def requeue(self, job_id: int) -> None:
        """Put it back into the queue. Raises NoSuchJob, Refused if it waits or may not be requeued."""
        await self._run("scontrol", "requeue", str(job_id), job_id=job_id)

    async def partitions(self) -> list[Partition]:
        """The partitions this user sees, by name."""
        result = await self._run("sinfo", "--noheader", "--exact", f"--format={PARTITION_FORMAT}")
        return parse_partitions(result.out)

    async def start_estimate(self, script: Path, extra: Sequence[str] = ()) -> float | None:
        """When the job would start (unix seconds) if submitted now; None if SLURM cannot say. Raises Refused."""
        result = await self._run("sbatch", "--test-only", *extra, str(script))
        match = re.search(r"to start at (\S+)", result.err + result.out)
        return parse_time(match[1]) if match else None

    async def _squeue(self, *options: str, states: str = "all") -> list[Job]:
        result = await self._run("squeue", "--noheader", f"--states={states}", f"--Format={JOB_FORMAT}", *options)
        return parse_jobs(result.out)

    async def _run(
        self,
        *argv: str,
        job_id: int | None = None,
        field: str | None = None,
        again: Callable[[BaseException], bool] = lambda error: isinstance(error, Unavailable),
    ) -> Result:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(again),
            stop=stop_after_delay(self._patience_s),
            wait=wait_random_exponential(multiplier=0.5, max=10),
            sleep=self._sleep,
            reraise=True,
        ):
            with attempt:
                result = await self._attempt(argv)
                if result.status != 0:
                    raise _error(argv, result, job_id, field)
        return result

    async def _attempt(self, argv: Sequence[str]) -> Result:
        try:
            return await self._runner.run(argv)
        except Unavailable as error:
            raise Unsure(error.message) if _submits(argv) else error from None


def _was_not_sent(error: BaseException) -> bool:
    """Submitting again is safe only if the controller cannot have got it."""
    return isinstance(error, Unavailable) and not isinstance(error, Unsure)


def _submits(argv: Sequence[str]) -> bool:
    return argv[0] == "sbatch" and "--parsable" in argv


def _error(argv: Sequence[str], result: Result, job_id: int | None, field: str | None) -> SlurmError:
    message = _said(result)
    if UNKNOWN_JOB.search(message):
        return NoSuchJob(job_id if job_id is not None else _asked_for(argv))
    if UNAVAILABLE.search(message):
        lost = _submits(argv) and not NOT_SENT.search(message)
        return Unsure(message) if lost else Unavailable(message)
    return Refused(message or f"{argv[0]} ended with status {result.status}", field or _field(message))


def _said(result: Result) -> str:
    """What a command complained of, without its own name before each line."""
    lines = (re.sub(r"^\w+( error)?: (error: )?", "", line.strip()) for line in (result.err or result.out).splitlines())
    return "\n".join(dict.fromkeys(line for line in lines if line))


def _field(message: str) -> str | None:
    return next((field for pattern, field in REFUSALS if re.search(pattern, message, re.I)), None)


def _asked_for(argv: Sequence[str]) -> int:
    """The job that squeue was asked for."""
    return next((int(word.removeprefix("--jobs=")) for word in argv if word.startswith("--jobs=")), 0)
