"""Submitting a service: everything is checked first, then one sbatch."""

from __future__ import annotations

import asyncio
import getpass
import shutil
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from app.access.key_store import FIRST_KEY, first_key
from app.access.place import keys_file, keys_required
from app.allocation.records import KINDS, JobRecord, ServiceFolder, ServiceJob
from app.launch import LaunchError
from app.private_files import write_private
from app.settings import Settings, SettingsError
from app.submission.checks import check_folders, doubts, fitted, offline
from app.submission.connect import NODE
from app.submission.spec import cache_folders, cluster_of, comment, job_name, job_spec, write_script
from app.submission.state import Known, remember
from slurm.client import SlurmClient
from slurm.errors import SlurmError, Unavailable, Unsure
from slurm.jobs import Job
from slurm.timeline import append

RESERVED = ("cache", "home", "weights", "rag", "tls", "keys.json", "keys.json.lock", FIRST_KEY)
"""What else lies beside the folders of services."""
LOOKS, LOOK_S = 10, 3.0
"""How often, and how far apart, a job is looked for whose submission was cut off."""
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class Submitted:
    """A job that SLURM has taken."""

    name: str
    job_id: int
    job: ServiceJob

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "job_id": self.job_id, "folder": str(self.job.path)}


def service_folder(settings: Settings, name: str) -> ServiceFolder:
    """Where this user's service of that name lies. Raises SettingsError for a name that is no folder's."""
    if not name or name.startswith((".", "-")) or "/" in name or name in RESERVED:
        raise SettingsError(f"--name: {name!r} cannot be a service's name on SLURM; take letters, digits, - and _")
    return ServiceFolder.of(cluster_of(settings).shared, getpass.getuser(), name)


async def as_submitted(settings: Settings, folder: ServiceFolder, client: SlurmClient) -> Settings:
    """A profile as a service in this folder has it: weights in their folders, groups with all that they get.

    Raises SettingsError, SlurmError.
    """
    return fitted(offline(_anchored(settings), folder), await client.partitions())


async def live_jobs(folder: ServiceFolder, client: SlurmClient) -> list[Job]:
    """Jobs of the service that wait or run: its own, successors and joiners. Raises SlurmError."""
    noted = {record.job_id for at in folder.all_jobs() if (record := at.record())}
    jobs = await client.jobs(user=getpass.getuser(), name=job_name(folder.path.name))
    ours = (job for job in jobs if job.comment == comment(folder) or job.id in noted)  # some sites change comments
    return [job for job in ours if not job.state.ended]


async def submit(
    settings: Settings,
    name: str,
    profile: str,
    client: SlurmClient,
    *,
    warn: Callable[[str], None] = lambda line: None,
    sleep: Sleep = asyncio.sleep,
    clock: Callable[[], float] = time.time,
) -> Submitted:
    """Submit a service. Raises SettingsError for what can be told before, LaunchError if it runs already, SlurmError,
    KeysError.

    After Unsure the job may exist all the same; its folder stays.
    """
    folder = service_folder(settings, name)
    check_folders(settings)
    settings = await as_submitted(settings, folder, client)
    if running := await live_jobs(folder, client):
        raise LaunchError(
            f"job {running[0].id} of {name!r} still waits or runs ({running[0].state.value}); "
            f"`corral slurm down` ends it, --name submits another"
        )
    job = _create(settings, folder, name, clock)
    for line in doubts(settings):
        warn(f"warning: {line}")
    remember(Known(name, str(folder.path), profile))
    return Submitted(name, await send(client, job, "service", sleep, clock), job)


async def send(
    client: SlurmClient,
    job: ServiceJob,
    kind: KINDS,
    sleep: Sleep = asyncio.sleep,
    clock: Callable[[], float] = time.time,
) -> int:
    """One sbatch of the job's script, noted in its folder; what SLURM refuses leaves no folder. Raises SlurmError."""
    before = {each.id for each in await live_jobs(job.service, client)}
    try:
        job_id = await client.submit(job.script)
    except Unsure as lost:
        job_id = await _look_for(client, job, before, lost, sleep)
    except SlurmError:
        shutil.rmtree(job.path, ignore_errors=True)
        raise
    joins = str(job.joined().path) if kind == "joiner" else None
    JobRecord(job_id, kind, clock(), joins).write(job.job_file)
    return job_id


async def _look_for(client: SlurmClient, job: ServiceJob, before: set[int], lost: Unsure, sleep: Sleep) -> int:
    """The job whose submission was cut off: one of this service that was not there before. Raises Unsure."""
    for _ in range(LOOKS):
        await sleep(LOOK_S)
        try:
            found = [each.id for each in await live_jobs(job.service, client) if each.id not in before]
        except Unavailable:
            continue
        if found:
            return min(found)
    raise Unsure(
        f"{lost}: it is not known whether the job was taken, so it was not submitted again; "
        f"`corral slurm list` shows whether it came, `corral slurm down` ends it"
    )


def _create(settings: Settings, folder: ServiceFolder, name: str, clock: Callable[[], float]) -> ServiceJob:
    """The folders and files of a new job, and the first key where there is none. Raises SettingsError, KeysError."""
    job_spec(settings, ServiceJob(folder.jobs / "check"), name)  # nothing is written for what cannot be rendered
    try:
        folder.create()
        for each in cache_folders(folder):
            each.mkdir(mode=0o700, exist_ok=True)
        if keys_required(settings, NODE):
            first_key(keys_file(settings), clock)
        folder.address.unlink(missing_ok=True)
        write_private(folder.settings, settings.model_dump_json(indent=1))
        job = folder.new_job()
        write_script(job_spec(settings, job, name), job)
        append(job.timeline, "submitted", socket.gethostname(), clock)
    except OSError as error:
        raise SettingsError(f"cluster.shared: {error.filename or folder.path}: {error.strerror}") from None
    return job


def _anchored(settings: Settings) -> Settings:
    """The settings with the keys' file found from everywhere: the job runs in another folder."""
    if settings.access.file is None:
        return settings
    return settings.model_copy(update={"access": settings.access.model_copy(update={"file": keys_file(settings)})})
