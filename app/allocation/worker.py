"""A further node of the cluster: waits for the head's word, joins, and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import time

from app.allocation.agent import WATCH_S, Agent, AgentError, refresh
from app.allocation.records import ClusterRecord
from app.cluster import ClusterError, start_worker
from app.ports import PortBlock
from app.processes import end_descendants
from slurm.staging import StagingError

GRACE_S = 3
AGAIN_S = 2
REJOIN_S = 30
"""A head that is silent for so long is gone."""
ATTEMPTS = 5
"""A node whose Ray ended by itself joins again so often."""


class ClusterGone(AgentError):
    """The head does not answer any more, and nobody has told this job to end."""


class Worker:
    """Runs until it is told to stop, or the cluster is gone."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
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
        except (AgentError, ClusterError, StagingError) as error:
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
        for _ in range(ATTEMPTS):
            await asyncio.sleep(AGAIN_S)
            await self._until_head_answers()
            with contextlib.suppress(ClusterError):
                await self._join(block)
        raise AgentError("Ray does not stay up on this node; its log has the reason")

    async def _until_head_answers(self) -> None:
        """Raises ClusterGone if it is silent and tells nothing any more, AgentError if only this node is cut off."""
        silent_since, told = time.monotonic(), self._agent.main.status()
        while not await _answers((await self._head()).gcs):
            if time.monotonic() - silent_since > REJOIN_S:
                refresh(self._agent.main.path)
                if self._agent.main.status() != told:
                    raise AgentError("this node does not reach the head, which lives")
                raise ClusterGone("the cluster is gone: its head does not answer any more")
            await asyncio.sleep(AGAIN_S)

    async def _join(self, block: PortBlock) -> None:
        """Until this node's Ray ends."""
        head = await self._head()
        cluster = self._agent.cluster(block, head.gcs, head.replica_ports)
        await asyncio.to_thread(cluster.prepare)
        self._agent.say("joining")
        process = await start_worker(cluster)
        self._agent.say("joined")
        self._agent.event("node joined")
        await process.wait()
        self._agent.say("lost", "Ray ended on this node")
        await asyncio.to_thread(end_descendants, GRACE_S)

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


async def _answers(address: str) -> bool:
    """Whether somebody takes connections there. Ray itself would try for longer."""
    host, port = address.rsplit(":", 1)
    try:
        async with asyncio.timeout(AGAIN_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True
