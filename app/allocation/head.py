"""The head of a job: Ray's head, the applications and the edge, in charge of the other nodes and of the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any

import httpx

from app.access.tls import made_certificates
from app.allocation.agent import WATCH_S, Agent, is_there, refresh, with_copies
from app.allocation.handover import Handover
from app.allocation.known_replicas import KnownReplicas
from app.allocation.nodes import Node, degraded, gathered, lacking, seen
from app.allocation.phases import PhaseWatch
from app.allocation.records import Address, ClusterRecord, JobStatus
from app.allocation.rejoin import Rejoin
from app.change.changes import Changes
from app.change.records import FOLDER, ChangeFolder
from app.cluster import Cluster
from app.edge import Edge, EdgeError, EdgeMode
from app.monitoring.targets import Targets
from app.ports import PortBlock
from app.private_files import write_private
from app.processes import birth
from app.service import TOLD, Service, ServiceError
from app.service_setup import gateway_client
from app.settings import Settings
from app.state import ServiceState

PHASE_POLL_S = 0.1
STATUS_EVERY_S = 2.0
LAME_DUCK_S = 10
"""So long /ready says 503 while requests are still taken: load balancers ask every few seconds."""
LAST_S = 30
"""So long before the margin it turns away even where a successor takes over, or is still awaited."""
ATTEMPTS = 10
MARGIN_S = 10
"""Left before the deadline to end Ray and the nodes."""


class Head(Service):
    """A Service over several nodes that tells what it does through the job folder."""

    drain_s, ray_grace_s = 1, 3
    logs_end_with_it = False

    def __init__(self, agent: Agent, cluster: Cluster, state: ServiceState, block: PortBlock) -> None:
        super().__init__(with_copies(agent.settings, agent.main), cluster, state)
        self._agent, self._job = agent, agent.job
        self._block = block  # ours for as long as this is held
        here = agent.allocation
        groups = agent.config.components
        self._expected = {node: group.name for group, nodes in zip(groups, here.groups, strict=False) for node in nodes}
        self._nodes: list[Node] = [Node(name, group) for name, group in self._expected.items()]
        self._status = JobStatus(here.job_id, here.restarts, "starting Ray", time.time(), deadline=here.deadline)
        self._written = float("-inf")
        self._phases = PhaseWatch(cluster.progress, tuple(agent.settings.models), agent.event)
        self._tasks: set[asyncio.Task[None]] = set()
        self._replicas = KnownReplicas()
        self._published = False
        self._warned = 0.0
        """This and the one above by a clock that nobody moves."""

    @classmethod
    def of(cls, agent: Agent) -> Head:
        block = PortBlock.reserve()
        cluster = agent.cluster(block, None)
        state = ServiceState(
            name=agent.job.service.path.name,
            pid=os.getpid(),
            created=birth(os.getpid()),
            profile="",
            run_dir=str(agent.local),
            address=Address(
                agent.allocation.job_id, agent.node, agent.address, cluster.ports.edge, 0, _scheme(agent.settings)
            ).url,
            ray_address=cluster.ray_address,
            serve_address=cluster.serve_address,
        )
        return cls(agent, cluster, state, block)

    async def run(self) -> None:
        """Raises ServiceError, ClusterError, EdgeError; whatever happens, the last word is in status.json."""
        mirror = asyncio.create_task(self._agent.mirror_logs())
        orders = asyncio.create_task(self._obey())
        self._spawn(self._keep_telling())
        try:
            self._copies = await self._agent.copy_weights()
            await super().run()
        except BaseException as error:
            self._tell(phase="failed", error=_first_line(error))
            raise
        finally:
            self._withdraw_address()
            for task in (orders, mirror, *self._tasks):
                task.cancel()
            await asyncio.gather(orders, mirror, *self._tasks, return_exceptions=True)
            self._agent.remove_weights()
        self._tell(phase="ended")

    # Starting.

    async def _gather(self, head: asyncio.subprocess.Process) -> None:
        agent, here, ports = self._agent, self._agent.allocation, self._cluster.ports
        agent.event("head started")
        gcs, token = self._cluster.ray_address, str(self._cluster.token)
        ClusterRecord(here.job_id, here.restarts, gcs, token, ports.replicas).write(self._job.cluster_file)
        agent.say("joined")
        agent.event("node joined")
        self._announce("waiting for nodes")
        limit_s = agent.config.nodes_timeout_s
        deadline = time.monotonic() + limit_s
        while any(node.state != "joined" for node in self._look_for_nodes()):
            if head.returncode is not None:
                raise ServiceError(f"Ray's head ended with status {head.returncode}; see logs/{agent.node}")
            self._refuse_missing(time.monotonic() > deadline, limit_s)
            self._tell()
            await asyncio.sleep(WATCH_S)
        self._tell()

    def _look_for_nodes(self) -> list[Node]:
        refresh(self._job.nodes)
        here = self._agent.allocation
        self._nodes = gathered(self._expected, self._job.node_records(), here.job_id, here.restarts)
        return self._nodes

    def _refuse_missing(self, late: bool, limit_s: float) -> None:
        """Raise ServiceError for a node that failed, or that is late, with where to look."""
        for node in self._nodes:
            log = self._job.node_log(node.name)
            if node.state == "failed":
                raise ServiceError(f"node {node.name} cannot take part: {node.detail}; its log is {log}")
            if late and node.state == "waiting":
                raise ServiceError(
                    f"node {node.name} did not join within {limit_s:g} s ({node.detail}); its log is {log}"
                )

    async def _deploy(self, deployer: asyncio.subprocess.Process) -> None:
        self._spawn(self._watch_phases())
        await super()._deploy(deployer)
        self._agent.event("deployed", "-")

    async def _start_edge(self) -> None:
        await super()._start_edge()
        self._agent.event("edge started")
        if self._address_is_free():
            self._publish_address()

    async def _keep_telling(self) -> None:
        """A sign of life, also while weights are copied: workers take a head that tells nothing for gone."""
        while True:
            self._tell()
            await asyncio.sleep(STATUS_EVERY_S)

    async def _watch_phases(self) -> None:
        while not self._status.settled:
            self._phases.look()
            await asyncio.sleep(PHASE_POLL_S)

    # Serving.

    def _watches(self, head: asyncio.subprocess.Process) -> list[Coroutine[Any, Any, None]]:
        handover = Handover(self._agent, self._note_successor, self._move)
        rejoin = Rejoin(self._agent, lambda: lacking(self._expected, self._nodes))
        return [*super()._watches(head), self._follow_nodes(), handover.run(), rejoin.run()]

    def _changes(self) -> Changes:
        """A change may be asked for where the job's folder lies; what it leads to is what the next job starts with."""
        agent = self._agent
        return replace(
            super()._changes(),
            refusal=self._unchangeable,
            prepared=lambda settings: with_copies(settings, agent.main, agent.settings),
        )

    @property
    def _change_folder(self) -> ChangeFolder:
        return ChangeFolder(self._job.path / FOLDER)

    def _unchangeable(self) -> str | None:
        if self._status.successor:
            return f"job {self._status.successor} is about to take over; apply the profile when it has"
        if self._state.phase != "serving":
            return f"the job is {self._state.phase}; give the profile to the next one"
        return None

    def _keep(self, settings: Settings, profile: str) -> None:
        write_private(self._job.service.settings, settings.model_dump_json(indent=1))

    async def _see(self, edge: Edge, ready: Any, replicas: Any) -> None:
        models: Mapping[str, Mapping[str, Any]] = ready["models"]
        for model in self._phases.states(models):
            self._spawn(self._ask_first(model))
        self._tell(models=models, degraded=degraded(self._nodes, lacking(self._expected, self._nodes), models))
        self._replicas.note(replicas)
        if self._status.settled:
            self._phases.say_once("service ready", "-")
            self._take_over(models)

    def _take_over(self, models: Mapping[str, Mapping[str, Any]]) -> None:
        """Let the address file name us: where nobody else serves, and as a successor only with all models."""
        whole = all(status["state"] in ("ready", "idle") for status in models.values())
        if not self._published and (whole or self._address_is_free()):
            self._publish_address()

    def _address_is_free(self) -> bool:
        found = Address.read(self._job.service.address)
        return found is None or found.job_id == self._agent.allocation.job_id

    async def _ask_first(self, model: str) -> None:
        """One token, so that no person waits for what an engine does at first; it is the timeline's first token."""
        if model not in self._settings.models or self._settings.models[model].task != "generate":
            return
        body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello!"}]}
        with contextlib.suppress(httpx.HTTPError):
            async with gateway_client(self._cluster, 60) as client:
                (await client.post("/v1/chat/completions", json=body)).raise_for_status()
            self._agent.event("first token", model)

    async def connect(self, replicas: Mapping[str, Any]) -> None:
        """Serve tells of replicas on a dead node for a few seconds more."""
        lost = {node.address for node in self._nodes if node.state == "lost"}
        living = {
            application: [(ip, port) for ip, port in found if ip not in lost] for application, found in replicas.items()
        }
        await super().connect(living)

    async def _follow_nodes(self) -> None:
        """Know of nodes that die, and take their replicas and what hangs on them away at once."""
        async with gateway_client(self._cluster, 5) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError, ValueError, OSError):
                    alive = (await client.get("/internal/nodes")).json()
                    records = await asyncio.to_thread(self._job.node_records)
                    await self._compare(seen(self._nodes, records, alive))
                    self._tell()
                await asyncio.sleep(self._agent.watch_s)

    async def _compare(self, now: list[Node]) -> None:
        before = {node.name: node.state for node in self._nodes}
        self._nodes = now
        for node in now:
            if node.state == "lost" and before.get(node.name) == "joined":
                self._agent.event("node lost", node.name)
                await self._drop(node.address)

    async def _drop(self, address: str) -> None:
        """End what is under way on this node: its clients would wait until the idle timeout."""
        bases = {spec.app_name: spec.deployed_id for spec in (*self._settings.models.values(), *self.coming)}
        for application, port in self._replicas.lost(address):
            if self._edge and application in bases and (replica := self._cluster.replica(address, port)):
                with contextlib.suppress(EdgeError):
                    await self._edge.drop_sessions(bases[application], replica)

    # The end.

    async def _obey(self) -> None:
        """Orders that come as files: drain, stop."""
        while not is_there(self._job.stop):
            if is_there(self._job.drain) and self._state.phase not in ("draining", "stopping"):
                self._spawn(self._drain())
            await asyncio.sleep(WATCH_S)
        self.stop()

    async def _drain(self) -> None:
        """No new requests, then the end of those under way, then ours. A service that does not serve yet just ends."""
        self._agent.event("drain")
        self._warned = time.monotonic()
        edge = self._edge
        self._announce("draining")
        if edge:
            await self._turn_away(edge)
        while edge and self._left_s() > 0 and await _busy(edge):
            await asyncio.sleep(WATCH_S)
        self.stop()

    async def _turn_away(self, edge: Edge) -> None:
        """Say that we end, and a little later take no more; where a successor takes over, only at the very end.

        Ordered long before the walltime, it is for now. (SLURM warns up to a minute early.)
        """
        due = self._left_s() <= self._agent.config.drain_s + 60
        while due and self._status.successor and self._left_s() > LAST_S:
            await asyncio.sleep(WATCH_S)
        await _set_mode(edge, EdgeMode.DRAINING)
        await asyncio.sleep(max(0.0, min(LAME_DUCK_S, self._left_s() / 2)))
        await _set_mode(edge, EdgeMode.CLOSED)

    def _left_s(self) -> float:
        """Until the margin before the deadline; where SLURM tells none, it warned `drain_s` before."""
        deadline = self._job.deadline() or self._agent.allocation.deadline
        if deadline is None:
            return self._warned + self._agent.config.drain_s - time.monotonic() - MARGIN_S
        return deadline - time.time() - MARGIN_S

    def _note_successor(self, job_id: int) -> None:
        self._agent.event("successor submitted", str(job_id))
        self._tell(successor=job_id)

    async def _move(self, address: Address | None) -> None:
        """Pass everything on to the successor, which serves; None: it is gone, so serve again."""
        if self._edge is None:
            return
        if address:
            await self._edge.set_mode(EdgeMode.MOVED, (address.host, address.port))
            self._agent.event("moved", address.node)
        else:
            await self._edge.set_mode(EdgeMode.OPEN)

    # What others see.

    def _publish_address(self) -> None:
        here = self._agent
        address = Address(
            here.allocation.job_id, here.node, here.address, self._cluster.ports.edge, time.time(),
            _scheme(here.settings), self._state.certificate, self._state.fingerprint,
        )  # fmt: skip
        with contextlib.suppress(OSError):  # it is tried again
            address.write(self._job.service.address)
            self._published = True
            self._tell_prometheus(address)
        self._tell(url=address.url)

    def _tell_prometheus(self, address: Address) -> None:
        certificates = made_certificates(self._settings) if self._state.certificate else []
        labels = {"service": self._state.name, "node": address.node, "slurm_job": str(address.job_id)}
        Targets(self._job.service.path).publish(address.url, labels, certificates)

    def _withdraw_address(self) -> None:
        found = Address.read(self._job.service.address)
        if found and found.job_id == self._agent.allocation.job_id:
            with contextlib.suppress(OSError):
                self._job.service.address.unlink()
                Targets(self._job.service.path).withdraw()

    @property
    def _status_file(self) -> str:
        return str(self._job.status_file)

    def _publish(self, state: ServiceState) -> None:
        self._tell(phase=state.phase, error=state.error)

    def _tell(self, **changes: Any) -> None:
        """Write status.json where something changed, and every two seconds as a sign of life."""
        nodes = {node.name: node.to_json() for node in self._nodes}
        deadline = self._job.deadline() or self._agent.allocation.deadline
        fresh = replace(self._status, nodes=nodes, deadline=deadline, **changes)
        now = time.monotonic()
        if fresh == self._status and now - self._written < STATUS_EVERY_S:
            return
        self._status, self._written = fresh, now
        with contextlib.suppress(OSError):
            replace(fresh, updated=time.time()).write(self._job.status_file)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _scheme(settings: Settings) -> str:
    return "https" if settings.access.tls else "http"


async def _set_mode(edge: Edge, mode: EdgeMode) -> None:
    """Set it, also where HAProxy is just being started again."""
    for _ in range(ATTEMPTS):
        try:
            return await edge.set_mode(mode)
        except EdgeError:
            await asyncio.sleep(WATCH_S)
    return None


async def _busy(edge: Edge) -> bool:
    """Whether requests are under way, as far as can be known."""
    try:
        return await edge.requests() > 0
    except EdgeError:
        return True


def _first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = str(error) if isinstance(error, TOLD) else repr(error)
    return text.splitlines()[0] if text else repr(error)
