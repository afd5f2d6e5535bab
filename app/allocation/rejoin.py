"""A job of one node for every node that was lost: SLURM gives none back to a running job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

from app.allocation.agent import Agent
from app.allocation.errand import NotSubmitted, cancelled, submitted
from app.allocation.records import JobRecord, ServiceJob
from app.bounded_log import say
from app.settings import SettingsError

POLL_S = 1.0
SETTLE_S = 10
"""A node whose network was gone for a moment joins again by itself."""
JOIN_S = 900
"""A joiner that has not joined by then is not waited for any more."""
PAUSE_S = 60
"""After sbatch refused."""


class Rejoin:
    """lacking: group -> how many nodes it lacks now."""

    def __init__(self, agent: Agent, lacking: Callable[[], Mapping[str, int]]) -> None:
        self._agent, self._lacking = agent, lacking

    async def run(self) -> None:
        if not self._agent.config.rejoin:
            return
        while True:
            group = await self._lasting()
            try:
                await self._until_joined(group, await self._submit(group))
            except (NotSubmitted, SettingsError, OSError, ValueError) as error:
                say(f"corral: no node could be asked for in place of the lost one: {error}")
                await asyncio.sleep(PAUSE_S)

    async def _lasting(self) -> str:
        """A group that has lacked a node for a while."""
        since: dict[str, float] = {}
        while True:
            lack = self._lacking()
            since = {group: since.get(group, time.monotonic()) for group in lack}
            for group, began in since.items():
                if time.monotonic() - began > SETTLE_S:
                    return group
            await asyncio.sleep(POLL_S)

    async def _submit(self, group: str) -> ServiceJob:
        from app.submission.spec import joiner

        main = self._agent.main
        job = joiner(self._agent.settings, main, group, self._left())
        job_id = await submitted(main, job)
        JobRecord(job_id, "joiner", time.time(), str(main.path)).write(job.job_file)
        self._agent.event("joiner submitted", str(job_id))
        return job

    def _left(self) -> timedelta:
        deadline = self._agent.main.deadline() or self._agent.allocation.deadline
        left_s = self._agent.config.walltime.total_seconds() if deadline is None else deadline - time.time()
        return timedelta(minutes=int(left_s // 60))

    async def _until_joined(self, group: str, job: ServiceJob) -> None:
        """Wait for it; where the lost node came back instead, or time is up, it is not needed any more."""
        record = job.record()
        lack, until = self._lacking().get(group, 0), time.monotonic() + JOIN_S
        while lack and self._lacking().get(group, 0) >= lack and time.monotonic() < until:
            await asyncio.sleep(POLL_S)
        joined = {each.job_id for each in self._agent.main.node_records() if each.phase == "joined"}
        if record and record.job_id not in joined:
            cancelled(self._agent.main, job)
