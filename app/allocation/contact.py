"""What a worker knows of its head: whether its port answers, and what it tells on the shared folder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.allocation.agent import AgentError, refresh
from app.allocation.records import JobStatus, ServiceJob
from slurm.timeline import parse_timeline

AGAIN_S = 2.0
STEP_ENDED = "step ended"
"""What the batch shell writes into the timeline."""
SILENT_S = 30.0
"""A head that neither answers nor tells anything for so long is gone."""


class ClusterGone(AgentError):
    """The head does not answer any more, and nobody has told this job to end."""


@dataclass(frozen=True)
class Contact:
    """Of the worker `node` to the head of the job `main`. again_s: between two tries; watch_s: between two looks."""

    main: ServiceJob
    node: str
    watch_s: float
    again_s: float = AGAIN_S
    silent_s: float = SILENT_S
    clock: Callable[[], float] = time.time

    async def until_answers(self, gcs: Callable[[], Awaitable[str]]) -> None:
        """Until somebody takes connections at `gcs`, host:port. Raises ClusterGone.

        A head that goes on telling lives, and only the network to it is away: then this waits for the network.
        """
        since, told = time.monotonic(), self._told()
        while not await answers(await gcs(), self.again_s):
            if (now := self._told()) != told:
                since, told = time.monotonic(), now
            if time.monotonic() - since > self.silent_s:
                raise ClusterGone("the cluster is gone: its head does not answer any more")
            await asyncio.sleep(self.again_s)

    async def until_lost(self) -> None:
        """Until the head has lost this node, which it had: what runs here then is no part of the cluster any more.

        Ray never takes back a node that it took for dead, and one that is cut off may not notice for minutes. What the
        head told before counts for nothing: it may be of the time before this node joined again. Where clocks of
        nodes do not agree it is Ray that notices, later.
        """
        since, had = self.clock(), False
        while True:
            told = self._told()
            state = told.nodes.get(self.node, {}).get("state") if told else None
            if had and state == "lost":
                return
            had = had or (state == "joined" and told is not None and told.updated > since)
            await asyncio.sleep(self.watch_s)

    def _told(self) -> JobStatus | None:
        refresh(self.main.path)
        return self.main.status()


def ends_of_steps(job: ServiceJob, node: str) -> int:
    """How often the batch shell of a job saw the step of a node end. A node that is cut off may not know of its own."""
    try:
        text = job.timeline.read_text(errors="replace")
    except OSError:
        return 0
    return sum((event.what, event.who) == (STEP_ENDED, node) for event in parse_timeline(text))


async def answers(address: str, patience_s: float = AGAIN_S) -> bool:
    """Whether somebody takes connections there. Ray itself would try for longer."""
    host, port = address.rsplit(":", 1)
    try:
        async with asyncio.timeout(patience_s):
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True
