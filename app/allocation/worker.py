"""A further node of the cluster: waits for the head's word, joins, and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import time

from app.allocation.agent import WATCH_S, Agent, AgentError, refresh
from app.allocation.contact import AGAIN_S, ClusterGone, Contact, ends_of_steps
from app.allocation.records import ClusterRecord
from app.cluster import ClusterError, start_worker
from app.ports import PortBlock
from app.processes import end_descendants
from slurm.staging import StagingError

GRACE_S = 3
ATTEMPTS = 5
"""A node that left the cluster soon after it had joined joins again so often."""
STEADY_S = 600.0
"""Who was in the cluster for so long was not soon out of it."""


class Worker:
    """Runs until it is told to stop, or the cluster is gone."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._contact = Contact(agent.main, agent.node, agent.watch_s)
        self._ends = ends_of_steps(agent.job, agent.node)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        """Raises AgentError, ClusterError if the node cannot take part (any more)."""
        stopped = asyncio.create_task(self._until_stopped())
        work = asyncio.create_task(self._live())
        mirror = asyncio.create_task(self._agent.mirror_logs())
        try:
            await asyncio.wait({stopped, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        except (AgentError, ClusterError, StagingError, OSError) as error:
            self._agent.say("failed", str(error))
            raise
        finally:
            for task in (work, stopped):
                task.cancel()
            await asyncio.gather(work, stopped, return_exceptions=True)
            await asyncio.to_thread(end_descendants, GRACE_S)
            mirror.cancel()
            await asyncio.gather(mirror, return_exceptions=True)
            self._agent.remove_weights()
        self._agent.say("ended")

    async def _until_stopped(self) -> None:
        while not self._stopped.is_set() and not self._agent.told_to_stop():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), self._agent.watch_s)
            refresh(self._agent.main.path)

    async def _live(self) -> None:
        """Join, and join again where Ray ended though the cluster lives: its head may have taken us for dead."""
        self._copies = await self._agent.copy_weights()
        block = PortBlock.reserve()
        await self._join(block)
        attempts = ATTEMPTS
        while attempts:
            await asyncio.sleep(AGAIN_S)
            await self._contact.until_answers(self._gcs)
            # Ray's head pauses before it tries ports again that failed it, and would take us for dead meanwhile.
            fresh = PortBlock.reserve()
            block.release()
            block, began = fresh, time.monotonic()
            with contextlib.suppress(ClusterError):
                await self._join(block)
            attempts = attempts - 1 if time.monotonic() - began < STEADY_S else ATTEMPTS
        raise AgentError("this node does not stay in the cluster: Ray's log has the reason, or the network to the head")

    async def _join(self, block: PortBlock) -> None:
        """Until this node's Ray ends, or is no part of the cluster any more."""
        head = await self._head()
        cluster = self._agent.cluster(block, head.gcs, head.replica_ports)
        await asyncio.to_thread(cluster.prepare)
        self._agent.say("joining")
        process = await start_worker(cluster)
        self._agent.say("joined")
        self._agent.event("node joined")
        self._agent.say("lost", await self._until_out(process))
        await asyncio.to_thread(end_descendants, GRACE_S)

    async def _until_out(self, ray: asyncio.subprocess.Process) -> str:
        """Until this node is no part of the cluster any more; returns why."""
        ended, lost = asyncio.create_task(ray.wait()), asyncio.create_task(self._contact.until_lost())
        try:
            await asyncio.wait({ended, lost}, return_when=asyncio.FIRST_COMPLETED)
            return "Ray ended on this node" if ended.done() else "the head has lost this node"
        finally:
            for task in (ended, lost):
                task.cancel()
            await asyncio.gather(ended, lost, return_exceptions=True)

    async def _gcs(self) -> str:
        """Raises AgentError where SLURM has given this step up: the node is for others, and a joiner comes instead."""
        if ends_of_steps(self._agent.job, self._agent.node) > self._ends:
            raise AgentError("SLURM has ended this node's step")
        return (await self._head()).gcs

    async def _head(self) -> ClusterRecord:
        """What the head of this very start says; of a joiner's main job any. Raises ClusterGone if it says nothing."""
        agent, waits_s = self._agent, self._agent.config.nodes_timeout_s
        self._agent.say("waiting for the head")
        silent_since, told = time.monotonic(), agent.main.status()
        while True:
            if (now := agent.main.status()) != told:
                silent_since, told = time.monotonic(), now
            if time.monotonic() - silent_since > waits_s:
                raise ClusterGone(f"the head has said nothing for {waits_s} s")
            refresh(agent.main.path)
            found = ClusterRecord.read(agent.main.cluster_file)
            here = (agent.allocation.job_id, agent.allocation.restarts)
            if found and (agent.main != agent.job or (found.job_id, found.restarts) == here):
                return found
            await asyncio.sleep(WATCH_S)
