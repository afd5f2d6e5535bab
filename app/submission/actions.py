"""What is done to a job that waits or runs: end it, drain it, give it more time or another node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from app.allocation.records import Address, JobRecord, ServiceFolder
from app.launch import NotRunningError
from app.settings import Settings, SettingsError
from app.submission.follow import look
from app.submission.look import Look
from app.submission.spec import joiner
from app.submission.submit import Sleep, Submitted, live_jobs, send
from slurm.client import SlurmClient
from slurm.errors import NoSuchJob, Refused
from slurm.jobs import Job, JobState
from slurm.walltime import format_walltime, parse_walltime

POLL_S = 1.0
CANCEL_S = 30
"""What SLURM has to end a job that was cancelled (KillWait is 30 s at most sites)."""


@dataclass(frozen=True)
class Ended:
    """Jobs that ended by themselves once they were told to, and those that had to be cancelled."""

    name: str
    ended: tuple[int, ...]
    cancelled: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


async def down(
    folder: ServiceFolder,
    client: SlurmClient,
    grace_s: float = 60,
    sleep: Sleep = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Ended:
    """End every job of the service, those that wait first: a successor must not start because its predecessor ended.

    Raises NotRunningError if there is none, SlurmError.
    """
    told: set[int] = set()
    cancelled: set[int] = set()
    until = clock() + grace_s
    while jobs := await live_jobs(folder, client):
        late = clock() > until
        for job in sorted(jobs, key=lambda each: not each.state.waiting):
            if job.id in cancelled or (job.id in told and not late):
                continue
            told.add(job.id)
            if late or not await _told_to_end(client, job):
                await client.cancel(job.id)
                cancelled.add(job.id)
        if clock() > until + CANCEL_S:
            break
        await sleep(POLL_S)
    if not told:
        raise NotRunningError(f"no job of {folder.path.name!r} waits or runs")
    _forget_address(folder, told)
    return Ended(folder.path.name, tuple(sorted(told - cancelled)), tuple(sorted(cancelled)))


async def _told_to_end(client: SlurmClient, job: Job) -> bool:
    """Whether the job was asked to end by itself, which only one that runs can."""
    if job.state.waiting:
        return False
    if job.state is JobState.COMPLETING:
        return True
    try:
        await client.signal(job.id, "TERM")
    except NoSuchJob:
        return True
    except Refused:
        return False
    return True


def _forget_address(folder: ServiceFolder, jobs: set[int]) -> None:
    address = Address.read(folder.address)
    if address and address.job_id in jobs:
        folder.address.unlink(missing_ok=True)


async def running(folder: ServiceFolder, client: SlurmClient) -> Look:
    """A look at a service whose job has nodes. Raises NotRunningError, saying what it does instead."""
    seen = await look(folder, client)
    if seen.job is None or seen.job.state.waiting or seen.job.state.ended:
        raise NotRunningError(f"job {seen.job_id} of {seen.name!r} does not run (it is {seen.phase})")
    return seen


async def drain(folder: ServiceFolder, client: SlurmClient) -> Look:
    """Have the service take no new requests, finish the old ones, and end. Raises NotRunningError."""
    seen = await running(folder, client)
    seen.at.drain.touch()
    return seen


async def extend(folder: ServiceFolder, client: SlurmClient, text: str) -> tuple[int, timedelta]:
    """Set the walltime to `text`, or `+text` more; returns the job and its new walltime from the start.

    Raises SettingsError for what is no time, Refused where the site does not allow it, NotRunningError.
    """
    seen = await look(folder, client)
    if seen.job is None or seen.job.state.ended:
        raise NotRunningError(f"job {seen.job_id} of {seen.name!r} has ended")
    walltime = _time(text.removeprefix("+"))
    if text.startswith("+"):
        walltime += _limit(seen.job)
    try:
        await client.extend(seen.job_id, walltime)
    except Refused as error:
        raise Refused(
            f"the site does not let job {seen.job_id} have {format_walltime(walltime)} ({error.message}); with "
            f"cluster.successor: true a new job takes over before the end",
            "walltime",
        ) from None
    return seen.job_id, walltime


def _time(text: str) -> timedelta:
    try:
        return parse_walltime(text)
    except ValueError as error:
        raise SettingsError(f"TIME: {error}") from None


def _limit(job: Job) -> timedelta:
    """The walltime that the job has now."""
    if not job.state.waiting and job.starts_at is not None and job.ends_at is not None:
        return timedelta(seconds=round(job.ends_at - job.starts_at))
    if job.time_left is None:
        raise SettingsError("TIME: SLURM does not say how long the job may run; give the whole walltime, without +")
    return job.time_left


async def join(
    folder: ServiceFolder, client: SlurmClient, group: str | None, sleep: Sleep = asyncio.sleep
) -> Submitted:
    """Submit a job of one more node of `group` (None: the first), for as long as the main job still has.

    Raises NotRunningError, SettingsError, SlurmError.
    """
    seen = await running(folder, client)
    settings = Settings.model_validate_json(folder.settings.read_text())
    if settings.cluster is None or seen.job is None or seen.job.time_left is None:
        raise SettingsError("cluster.walltime: it is not known how long the job still runs, so nothing can join it")
    name = group or settings.cluster.groups[0].name
    try:
        job = joiner(settings, seen.at, name, seen.job.time_left)
    except ValueError as error:
        raise SettingsError(f"cluster.walltime: {error}") from None
    JobRecord(0, "joiner", time.time(), str(seen.at.path)).write(job.job_file)
    return Submitted(seen.name, await send(client, job, "joiner", sleep), job)
