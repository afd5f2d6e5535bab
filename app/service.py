"""One service: Ray, the applications on it and the edge in front, started, watched and ended by one process.

`corral up` starts this module as a session leader of its own and reads its state file; a TERM ends it. It is the
subreaper of everything it starts, so that nothing it started outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from app.access.certificate import CertificateError
from app.access.keeper_app import KeeperConfig
from app.access.key_records import KeysError
from app.access.place import keys_required, own_key_file
from app.access.tls import certificate_for
from app.bounded_log import empty_logs, open_log, say, shorten_logs
from app.change.changes import Changes
from app.change.deployer import Deployer
from app.change.records import FOLDER, ChangeFolder
from app.change.service_stage import ServiceStage
from app.cluster import Cluster, ClusterError, Ports, start_head
from app.edge import Edge, EdgeError
from app.launch import address_of
from app.monitoring.targets import follow
from app.processes import adopt_orphans, birth, end_descendants
from app.service_edge import connect, follow_keys, guard_edge, route
from app.service_keeper import KeeperProcess
from app.service_setup import edge_host, edge_spec, gateway_client, keeper_config
from app.settings import Settings
from app.state import ServiceState, write_state
from deployments.config import ModelSpec

POLL_S = 0.5
SETTLED_POLL_S = 3.0
"""Asking costs Serve's controller and the gateway a share of a core; HAProxy finds dead replicas by itself."""
GCS_POLL_S = 1.0


class ServiceError(Exception):
    """The service cannot go on; the message is for the person who started it."""


TOLD = (ServiceError, ClusterError, EdgeError, KeysError, CertificateError)
"""Errors whose message is for a person."""


class Service:
    """Runs until it is told to stop or Ray's head ends."""

    drain_s: float = 5
    """How long requests under way may take once it is to end."""
    ray_grace_s: float = 8
    logs_end_with_it = True

    def __init__(self, settings: Settings, cluster: Cluster, state: ServiceState) -> None:
        self._settings = settings
        self._cluster = cluster
        self._state = state
        self._stop = asyncio.Event()
        self._edge: Edge | None = None
        self._keeper = KeeperProcess(self._keeper_config, cluster.run_dir / "logs" / "keeper.log", self._note)
        self._untold = False
        self.coming: tuple[ModelSpec, ...] = ()
        """Models that a change brings up, or has just replaced: the edge knows their replicas, too."""

    @property
    def cluster(self) -> Cluster:
        return self._cluster

    @property
    def edge(self) -> Edge:
        """Once the service serves."""
        assert self._edge
        return self._edge

    @property
    def settings(self) -> Settings:
        """Those in force: whatever starts again goes by them."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def settings_file(self) -> Path:
        """The settings in force, for other commands."""
        return self._cluster.run_dir / "settings.json"

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        """Start everything, watch it, end it. Raises ServiceError if it could not start or Ray ended."""
        stopped = asyncio.create_task(self._stop.wait())
        work = asyncio.create_task(self._start_and_watch())
        try:
            await asyncio.wait({stopped, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, stopped):
                task.cancel()
            await asyncio.gather(work, stopped, return_exceptions=True)
            await self._end()

    async def _start_and_watch(self) -> None:
        self._cluster.prepare()
        self._announce("starting Ray")
        deployer = await self._start_deployer()
        head = await start_head(self._cluster)
        await self._gather(head)
        await self._keeper.start()
        self._announce("deploying")
        await self._deploy(deployer)
        await self._start_edge()
        self._announce("serving")
        async with asyncio.TaskGroup() as tasks:
            for watch in self._watches(head):
                tasks.create_task(watch)

    async def _gather(self, head: asyncio.subprocess.Process) -> None:
        """Wait for what else has to be there before anything is deployed."""

    def _watches(self, head: asyncio.subprocess.Process) -> list[Coroutine[Any, Any, None]]:
        """What goes on for as long as the service is up."""
        return [
            self._guard_head(head), guard_edge(self.edge, self._note), self._keeper.guard(), self._follow_models(),
            self._follow_gcs(), follow_keys(self.edge, self._settings), self._changes().follow(),
        ]  # fmt: skip

    def _changes(self) -> Changes:
        """Takes what `corral apply` asks for."""
        serve = self._cluster.place.serve_host, self._cluster.ports.serve
        log = self._cluster.run_dir / "logs" / "change.log"

        def deployer() -> Deployer:
            return Deployer(self._cluster.environment(), serve, log)

        return Changes(ServiceStage(self), self._change_folder, deployer, kept=self._keep)

    @property
    def _change_folder(self) -> ChangeFolder:
        return ChangeFolder(self._cluster.run_dir / FOLDER)

    def _keep(self, settings: Settings, profile: str) -> None:
        """A change is done: these settings are the service's, as they were given, and the profile is of that name."""
        self._state = replace(self._state, profile=profile)
        self._publish(self._state)

    @property
    def _status_file(self) -> str:
        """Where the state of a whole job is told; nowhere outside of a job."""
        return ""

    def _announce(self, phase: str, error: str | None = None) -> None:
        self._state = self._state.with_phase(phase, error)
        self._publish(self._state)

    def _publish(self, state: ServiceState) -> None:
        write_state(state)
        follow(state)

    async def _see(self, edge: Edge, ready: Any, replicas: Any) -> None:
        """What the gateway says of the models and Serve of their replicas, several times a second at first."""

    async def _start_deployer(self) -> asyncio.subprocess.Process:
        """Start app.deploy, which imports vLLM while Ray starts and then waits for a line."""
        file = self.settings_file
        file.write_text(self._settings.model_dump_json())
        host, port = self._cluster.place.serve_host, str(self._cluster.ports.serve)
        with open_log(self._deploy_log) as output:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "app.deploy", str(file), host, port,
                env=self._cluster.environment(), stdout=output, stderr=output, stdin=asyncio.subprocess.PIPE,
            )  # fmt: skip

    async def _deploy(self, deployer: asyncio.subprocess.Process) -> None:
        await deployer.communicate(b"go\n")
        if deployer.returncode:
            lines = self._deploy_log.read_text(errors="replace").strip().splitlines()
            raise ServiceError(f"the applications could not be deployed: {lines[-1] if lines else 'no output'}")

    @property
    def _deploy_log(self) -> Path:
        return self._cluster.run_dir / "logs" / "deploy.log"

    async def _start_edge(self) -> None:
        certificate = await asyncio.to_thread(certificate_for, self._settings, edge_host(self._settings, self._cluster))
        if certificate:
            self._state = replace(
                self._state,
                certificate=str(certificate.certificate_path) if certificate.self_signed else "",
                fingerprint=certificate.fingerprint,
            )
            if certificate.warning:
                say(certificate.warning)
        spec = edge_spec(self._settings, self._cluster)
        self._edge = Edge(replace(spec, tls_cert=certificate.tls_path if certificate else None))
        await self._edge.start()

    def _keeper_config(self) -> KeeperConfig:
        return keeper_config(self._settings, self._cluster, self._state.name, self._status_file)

    async def _guard_head(self, head: asyncio.subprocess.Process) -> None:
        code = await head.wait()
        raise ServiceError(f"Ray's head ended with status {code}; its log is {self._cluster.run_dir}/logs/ray.log")

    async def _follow_gcs(self) -> None:
        """Tell when Ray's GCS was started again; a script does that, see ray_head.py."""
        told = 0
        while True:
            with contextlib.suppress(OSError):
                codes = (await asyncio.to_thread(self._cluster.gcs_log.read_text)).split()
                for code in codes[told:]:
                    self._note(f"Ray's GCS ended with status {code} and is started again")
                told = len(codes)
            await asyncio.sleep(GCS_POLL_S)

    def _note(self, incident: str) -> None:
        """Say what broke and is mended: on standard error, and for `corral status`."""
        say(incident)
        self._state = self._state.with_incident(incident, datetime.now().astimezone())
        self._untold = True
        self._catch_up()

    def _catch_up(self) -> None:
        """What `corral status` does not know yet; a full disk is no reason to end, and it learns it later."""
        with contextlib.suppress(OSError):
            if self._untold:
                self._publish(self._state)
                self._untold = False

    async def _follow_models(self) -> None:
        """Keep the edge's routes those of the models that answer, and its servers those of their replicas."""
        async with gateway_client(self._cluster, 5) as client:
            while self._edge:
                pause_s = POLL_S
                with contextlib.suppress(httpx.HTTPError, EdgeError, OSError, ValueError, KeyError):
                    ready = await _get(client, "/ready")
                    await route(self._edge, self._settings.models.values(), ready)
                    replicas = await _get(client, "/internal/replicas")
                    await self.connect(replicas)
                    await self._see(self._edge, ready, replicas)
                    pause_s = SETTLED_POLL_S if _whole(ready) else POLL_S
                self._catch_up()
                with contextlib.suppress(OSError):
                    self._edge.rotate_log()
                    await asyncio.to_thread(shorten_logs, self._cluster.run_dir)
                await asyncio.sleep(pause_s)

    async def connect(self, replicas: Mapping[str, Any]) -> None:
        """Requests go straight to replicas, and through Serve where there is none yet."""
        await connect(self.edge, self._cluster, (*self._settings.models.values(), *self.coming), replicas)

    async def _end(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk all has to end as well
            self._announce("stopping", self._state.error)
        if self._edge:
            with contextlib.suppress(EdgeError):
                await self._edge.stop(self.drain_s)
        if self._stop.is_set() and self.logs_end_with_it and self._state.disk_full:
            await asyncio.to_thread(empty_logs, self._cluster.run_dir)  # the keeper has usage to write down
        await asyncio.to_thread(end_descendants, self.ray_grace_s)


def _whole(ready: Any) -> bool:
    """Whether every model answers with as many replicas as it should have."""
    models = ready["models"].values()
    return bool(ready["ready"]) and all(each["replicas"] >= each["target_replicas"] for each in models)


async def _get(client: httpx.AsyncClient, path: str) -> Any:
    answer = await client.get(path)
    if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:  # which /ready says of models; of errors nothing is taken
        answer.raise_for_status()
    return answer.json()


async def _main(name: str, profile: str, settings: Settings, run_dir: Path) -> int:
    adopt_orphans()
    ray, ports = settings.ray, Ports.choose(settings.edge.port)
    cluster = Cluster(run_dir, ports, ray.cpus, int(ray.object_store), ray.include_dashboard, ray.environment)
    state = ServiceState(
        name=name,
        pid=os.getpid(),
        created=birth(os.getpid()),
        profile=profile,
        run_dir=str(run_dir),
        address=address_of(settings),
        ray_address=cluster.ray_address,
        serve_address=cluster.serve_address,
        key_file=str(own_key_file(settings)) if keys_required(settings, settings.edge.host) else "",
    )
    service = Service(settings, cluster, state)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, service.stop)
    try:
        await service.run()
    except (*TOLD, ExceptionGroup) as error:
        reason = _reason(error)
        _write_last(replace(state, phase="failed", error=reason))
        say(reason)
        return 1
    _write_last(replace(state, phase="stopped"))
    shutil.rmtree(run_dir, ignore_errors=True)
    return 0


def _write_last(state: ServiceState) -> None:
    with contextlib.suppress(OSError):  # on a full disk all has to end as well
        write_state(state)


def _reason(error: Exception) -> str:
    """The message of an error, or of the first inside a group of errors."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, TOLD) else repr(error)


def main(name: str, profile: str, run_dir: str) -> int:
    """Entry of the process; its settings come on stdin, so that no other user can read them off its arguments."""
    settings = Settings.model_validate_json(sys.stdin.read())
    return asyncio.run(_main(name, profile, settings, Path(run_dir)))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
