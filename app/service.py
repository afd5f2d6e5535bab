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
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.access.certificate import CertificateError
from app.access.keeper import edge_keys
from app.access.key_records import EMPTY, KeysError
from app.access.key_store import KeyStore, first_key
from app.access.place import keys_file, keys_required, own_key_file
from app.access.tls import certificate_for
from app.bounded_log import open_log, shorten_logs
from app.change.changes import Changes
from app.change.deployer import Deployer
from app.change.records import FOLDER, ChangeFolder
from app.change.service_stage import ServiceStage
from app.cluster import Cluster, ClusterError, Ports, start_head
from app.edge import Edge, EdgeError
from app.launch import address_of
from app.monitoring.targets import follow
from app.processes import adopt_orphans, end_descendants
from app.serve_config import GATEWAY
from app.service_setup import edge_host, edge_spec, gateway_client, keeper_config
from app.settings import Settings
from app.state import ServiceState, write_state
from deployments.config import ModelSpec
from deployments.status import ModelState

POLL_S = 0.5
SETTLED_POLL_S = 3.0
"""Asking costs Serve's controller and the gateway a share of a core; HAProxy finds dead replicas by itself."""


KEYS_POLL_S = 1.0
GCS_POLL_S = 1.0
FULL_DISK_S = 5.0
RESTART_S = 0.1


class ServiceError(Exception):
    """The service cannot go on; the message is for the person who started it."""


TOLD = (ServiceError, ClusterError, EdgeError, KeysError, CertificateError)
"""Errors whose message is for a person."""


class Service:
    """Runs until it is told to stop or Ray's head ends."""

    drain_s: float = 5
    """How long requests under way may take once it is to end."""
    ray_grace_s: float = 8

    def __init__(self, settings: Settings, cluster: Cluster, state: ServiceState) -> None:
        self._settings = settings
        self._cluster = cluster
        self._state = state
        self._stop = asyncio.Event()
        self._edge: Edge | None = None
        self._keeper: asyncio.subprocess.Process | None = None
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
        await self._start_keeper()
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
            self._guard_head(head), self._guard_edge(), self._guard_keeper(), self._follow_models(),
            self._follow_gcs(),
            self._follow_keys(), self._changes().follow(),
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
            sys.stderr.write(f"{certificate.warning}\n" if certificate.warning else "")
        spec = edge_spec(self._settings, self._cluster)
        self._edge = Edge(replace(spec, tls_cert=certificate.tls_path if certificate else None))
        await self._edge.start()

    async def _start_keeper(self) -> None:
        """Start app.access.keeper_app, which decides about requests and counts what they take."""
        config = keeper_config(self._settings, self._cluster, self._state.name, self._status_file)
        if config.keys:
            await asyncio.to_thread(first_key, Path(config.keys))
        log = self._cluster.run_dir / "logs" / "keeper.log"
        with open_log(log) as output:
            self._keeper = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "app.access.keeper_app",
                stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output,
            )  # fmt: skip
        assert self._keeper.stdin
        self._keeper.stdin.write(config.to_json().encode() + b"\n")
        self._keeper.stdin.close()

    async def _guard_keeper(self) -> None:
        """Start the keeper again when it dies; the edge waits for it (EdgeSpec.keeper_wait_s)."""
        while self._keeper:
            code = await self._keeper.wait()
            self._note(f"the keeper ended with status {code} and is started again")
            await asyncio.sleep(RESTART_S)
            await self._start_keeper()

    async def _follow_keys(self) -> None:
        """Have the edge take the keys that are in their file, and no others."""
        spec = edge_spec(self._settings, self._cluster)
        store, file, told = KeyStore(keys_file(self._settings)), EMPTY, ""
        while self._edge and spec.admission:
            trouble = ""
            try:
                file = await asyncio.to_thread(store.load)
            except KeysError as error:  # what was read last counts, and its keys expire all the same
                trouble = f"the keys cannot be read: {error}"
            try:
                await self._edge.set_keys(edge_keys(file, time.time()))
            except EdgeError as error:
                trouble = f"the edge does not take the keys: {error}"
            if trouble and trouble != told:
                sys.stderr.write(f"{trouble}\n")
            told = trouble
            await asyncio.sleep(KEYS_POLL_S)

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
        sys.stderr.write(f"{incident}\n")
        self._state = self._state.with_incident(incident, datetime.now().astimezone())
        with contextlib.suppress(OSError):  # a full disk is no reason to end
            self._publish(self._state)

    async def _guard_edge(self) -> None:
        """Start the edge again when it dies."""
        while self._edge:
            code = await self._edge.wait()
            self._note(f"the edge ended with status {code} and is started again")
            await asyncio.sleep(POLL_S)
            await self._start_again(self._edge)

    async def _start_again(self, edge: Edge) -> None:
        """Its port is held meanwhile; on a full disk it has to wait for room."""
        while True:
            try:
                return await edge.start()
            except OSError as error:
                self._note(f"the edge cannot start again yet: {error}")
                await asyncio.sleep(FULL_DISK_S)

    async def _follow_models(self) -> None:
        """Keep the edge's routes those of the models that answer, and its servers those of their replicas."""
        async with gateway_client(self._cluster, 5) as client:
            while self._edge:
                pause_s = POLL_S
                with contextlib.suppress(httpx.HTTPError, EdgeError, OSError, ValueError, KeyError):
                    ready = await _get(client, "/ready")
                    await self._route(self._edge, ready)
                    replicas = await _get(client, "/internal/replicas")
                    await self.connect(replicas)
                    await self._see(self._edge, ready, replicas)
                    pause_s = SETTLED_POLL_S if _whole(ready) else POLL_S
                with contextlib.suppress(OSError):
                    self._edge.rotate_log()
                    await asyncio.to_thread(shorten_logs, self._cluster.run_dir)
                await asyncio.sleep(pause_s)

    async def _route(self, edge: Edge, ready: Any) -> None:
        """Models that do not answer go to the gateway, which says why."""
        for spec in self._settings.models.values():
            told = ready["models"].get(spec.id, {"state": "starting"})  # not there while the gateway is told of it
            for served in spec.served_ids:
                await edge.set_model(served, ModelState(told["state"]).answers)

    async def connect(self, replicas: Mapping[str, Any]) -> None:
        """Requests go straight to replicas, and through Serve where there is none yet."""
        for spec in (*self._settings.models.values(), *self.coming):
            found = [self._cluster.replica(ip, port) for ip, port in replicas.get(spec.app_name, [])]
            if spec.deployed_id in self.edge.spec.bases:
                await self.edge.set_replicas(spec.deployed_id, [address for address in found if address])
        found = [self._cluster.replica(ip, port) for ip, port in replicas.get(GATEWAY, [])]
        await self.edge.set_gateway([address for address in found if address])

    async def _end(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk all has to end as well
            self._announce("stopping", self._state.error)
        if self._edge:
            with contextlib.suppress(EdgeError):
                await self._edge.stop(self.drain_s)
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
    ray = settings.ray
    cluster = Cluster(run_dir, Ports.choose(), ray.cpus, int(ray.object_store), ray.include_dashboard, ray.environment)
    state = ServiceState(
        name=name,
        pid=os.getpid(),
        created=psutil.Process().create_time(),
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
        write_state(replace(state, phase="failed", error=reason))
        sys.stderr.write(f"{reason}\n")
        return 1
    write_state(replace(state, phase="stopped"))
    shutil.rmtree(run_dir, ignore_errors=True)
    return 0


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
