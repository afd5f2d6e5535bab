"""A successor before the walltime: submit it, wait until it serves, pass everything on to it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from app.allocation.agent import Agent, refresh
from app.allocation.errand import NotSubmitted, submitted
from app.allocation.records import Address, JobRecord
from app.bounded_log import say
from app.edge import EdgeError
from app.settings import SettingsError

POLL_S = 1.0
PAUSE_S = 20


class Handover:
    """note: told the successor's job id. move: told its address once it serves, and None if that is gone again."""

    def __init__(
        self, agent: Agent, note: Callable[[int], None], move: Callable[[Address | None], Awaitable[None]]
    ) -> None:
        self._agent, self._note, self._move = agent, note, move

    async def run(self) -> None:
        if not self._agent.config.successor:
            return
        while not self._due():
            await asyncio.sleep(POLL_S)
        while True:
            try:
                job_id = await self._submit()
            except (NotSubmitted, SettingsError, OSError, ValueError) as error:
                say(f"corral: no successor could be submitted: {error}")
                await asyncio.sleep(PAUSE_S)
                continue
            self._note(job_id)
            await self._follow(job_id)

    def _due(self) -> bool:
        config = self._agent.config
        deadline = self._agent.main.deadline() or self._agent.allocation.deadline
        return deadline is not None and deadline - time.time() <= config.drain_s + config.lead_s

    async def _submit(self) -> int:
        from app.submission.spec import job_spec, write_script

        service = self._agent.main.service
        job = service.new_job()
        write_script(job_spec(self._agent.settings, job, service.path.name), job)
        job_id = await submitted(self._agent.main, job)
        JobRecord(job_id, "successor", time.time()).write(job.job_file)
        return job_id

    async def _follow(self, job_id: int) -> None:
        """Move there and, should it go away before us, back."""
        moved: Address | None = None
        while True:
            refresh(self._agent.main.service.path)
            found = Address.read(self._agent.main.service.address)
            there = found if found and found.job_id == job_id else None
            if there != moved:
                with contextlib.suppress(EdgeError):  # HAProxy is just being started again
                    await self._move(there)
                    moved = there
            await asyncio.sleep(POLL_S)
