"""One node of a job: `python -P -m app.allocation.node FOLDER NODE head|worker GROUP`, as job.sh starts it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Protocol

from app.allocation.addresses import AddressError
from app.allocation.agent import HEAD_LOST, TOLD_TO_END, Agent, AgentError
from app.allocation.contact import ClusterGone
from app.allocation.local_folder import local_folder
from app.allocation.records import NodeRecord, ServiceJob
from app.allocation.worker import Worker
from app.bounded_log import say
from app.cluster import ClusterError
from app.processes import adopt_orphans
from app.service import TOLD, ServiceError
from app.settings import Settings
from slurm.errors import NotInJob
from slurm.staging import StagingError
from slurm.timeline import append

PROBLEMS = (
    AddressError, AgentError, *TOLD, StagingError, NotInJob, OSError, ExceptionGroup,
)  # fmt: skip


def main(folder: str, node: str, role: str, group: str) -> int:
    """Exit status: 0 it was to end, 1 it failed, 75 SLURM ended it, 76 the head's node is gone."""
    job = ServiceJob(Path(folder))
    append(job.joined().timeline, "agent started", node, time.time)
    adopt_orphans()
    try:
        settings = Settings.model_validate_json(job.service.settings.read_text())
        return asyncio.run(_run(job, settings, node, role, group))
    except PROBLEMS as error:
        say(f"corral: {node}: {_reason(error)}")
        return 1


def _reason(error: BaseException) -> str:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, PROBLEMS) else repr(error)


async def _run(job: ServiceJob, settings: Settings, node: str, role: str, group: str) -> int:
    told: list[int] = []
    with local_folder(_folder_name(settings, group), os.getuid()) as local:
        os.chdir(local)
        try:
            agent = Agent.here(job, settings, node, group, local)
        except (AgentError, AddressError, NotInJob) as error:
            _leave_word(job, node, group, str(error))
            raise
        life = _life(agent, role)

        def stop() -> None:
            told.append(1)
            life.stop()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        try:
            await life.run()
        except (ExceptionGroup, ServiceError, ClusterError):
            if not told:  # else SLURM ended Ray's processes, too
                raise
        except ClusterGone as error:
            say(f"corral: {node}: {error}")
            return 1 if agent.main != agent.job or agent.told_to_stop() else HEAD_LOST
        finally:
            os.chdir("/")
        return TOLD_TO_END if told and not agent.told_to_stop() else 0


def _folder_name(settings: Settings, group: str) -> str:
    """Of the job and, in a heterogeneous one, the component: two can share a node."""
    groups = [each.name for each in settings.cluster.groups] if settings.cluster else []
    index = groups.index(group) if group in groups else 0
    return os.environ.get("SLURM_JOB_ID", str(os.getpid())) + (f".{index}" if index else "")


class Life(Protocol):
    """What a node is, from its start to its end."""

    async def run(self) -> None: ...

    def stop(self) -> None: ...


def _life(agent: Agent, role: str) -> Life:
    if role == "head" and agent.main == agent.job:
        from app.allocation.head import Head

        return Head.of(agent)
    return Worker(agent)


def _leave_word(job: ServiceJob, node: str, group: str, reason: str) -> None:
    """For the head, which waits for this node."""
    main = job.joined()
    leader = os.environ.get("SLURM_JOB_ID_HET_GROUP_0") or os.environ.get("SLURM_JOB_ID") or "0"
    job_id, restarts = int(leader), int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    NodeRecord(node, group, job_id, restarts, "failed", detail=reason).write(main.node_file(node, group))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
