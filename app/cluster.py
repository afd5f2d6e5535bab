"""A Ray of the service's own, on one host or on the nodes of a job: private folder, private token, its own ports."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.bounded_log import open_log
from app.edge_process import haproxy_binary
from app.ports import NODE_BLOCKS, PortBlock, free_ports, free_range
from app.private_files import write_private
from app.ray_head import LOG_VARIABLE as GCS_LOG_VARIABLE
from app.serve_proxy import VARIABLE as PROXY_VARIABLE
from app.serve_proxy import write_wrapper
from deployments.front import MIDDLEWARES
from deployments.progress import DIRECTORY_VARIABLE
from deployments.secret import KEEPER_VARIABLE, secret_of
from deployments.secret import VARIABLE as ASKS_FOR_SECRET
from deployments.steady_clock import CALLBACK as CONTROLLERS_CLOCK

LOOPBACK = "127.0.0.1"
REPLICA_PORTS = 400
NAMED_PORTS = (
    "gcs", "client", "agent", "dashboard", "serve", "fallback", "haproxy_stats", "haproxy_metrics",
    "node_manager", "object_manager", "runtime_env_agent", "agent_grpc", "metrics_export", "edge", "keeper",
)  # fmt: skip
START_TIMEOUT_S = 180
NO_PORT = "65536"
OTHERS = ("RAY_AUTH_TOKEN", "RAY_REDIS_ADDRESS", "RAY_REDIS_PASSWORD")
"""Variables of another Ray, which would count before ours."""


class ClusterError(Exception):
    """Ray did not start; the message says what its log says."""


@dataclass(frozen=True)
class Ports:
    """Every port that Ray and Serve would otherwise choose alike for all users of a node. 0: Ray finds one itself."""

    gcs: int
    client: int
    agent: int
    dashboard: int
    serve: int
    fallback: int
    haproxy_stats: int
    haproxy_metrics: int
    replicas: int
    node_manager: int = 0
    object_manager: int = 0
    runtime_env_agent: int = 0
    agent_grpc: int = 0
    metrics_export: int = 0
    edge: int = 0
    keeper: int = 0
    workers: range = range(0)

    @classmethod
    def choose(cls, edge: int = 0) -> Ports:
        """All but the edge's, which is nobody's yet and must stay so until it starts."""
        gcs, client, agent, dashboard, serve, fallback, stats, metrics, keeper = free_ports(9, beside=[edge])
        replicas = free_range(REPLICA_PORTS, beside=[edge])
        return cls(gcs, client, agent, dashboard, serve, fallback, stats, metrics, replicas, keeper=keeper)

    @classmethod
    def of_block(cls, block: PortBlock, replicas: int) -> Ports:
        """A node's ports, out of a block of its job's own."""
        named = dict(zip(NAMED_PORTS, itertools.count(block.first), strict=False))
        workers = range(block.first + len(NAMED_PORTS), block.first + NODE_BLOCKS.step)
        return cls(**named, replicas=replicas, workers=workers)


@dataclass(frozen=True)
class Place:
    """Where a node of the cluster is. Alone on a host: loopback, and all in the service's own folder.

    address:    of this node, for Ray and for replicas.
    serve_host: what Serve and the replicas listen on. Serve gives the same to replicas of all nodes.
    gcs:        the head's GCS, on a worker.
    token, progress: on the shared folder, where there are several nodes.
    node_timeout_s: a node that is silent for so long is dead.
    resources:  what this node offers beside CPUs, GPUs and memory.
    """

    address: str = LOOPBACK
    serve_host: str = LOOPBACK
    gcs: str | None = None
    token: Path | None = None
    progress: Path | None = None
    gpus: int | None = None
    node_timeout_s: float = 5
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cluster:
    """Where this service's Ray lives. `cpus` None offers what the host has."""

    run_dir: Path
    ports: Ports
    cpus: float | None
    object_store_bytes: int
    dashboard: bool
    extra: Mapping[str, str]
    place: Place = Place()

    @property
    def ray_address(self) -> str:
        return self.place.gcs or f"{self.place.address}:{self.ports.gcs}"

    @property
    def serve_address(self) -> str:
        """Where this host reaches Serve; listening everywhere, it does so on loopback too."""
        return f"{LOOPBACK}:{self.ports.serve}"

    @property
    def keeper_url(self) -> str:
        """Where the head's processes tell of usage; those of other nodes learn it with their application."""
        host = f"[{self.place.address}]" if ":" in self.place.address else self.place.address
        return f"http://{host}:{self.ports.keeper}"

    @property
    def token(self) -> Path:
        return self.place.token or self.run_dir / "token"

    @property
    def progress(self) -> Path:
        return self.place.progress or self.run_dir / "progress"

    def replica(self, address: str, port: int) -> tuple[str, int] | None:
        """Where a replica listens; None for a proxy's port. On a host alone it is loopback, whatever Serve tells."""
        if self.ports.replicas <= port < self.ports.replicas + REPLICA_PORTS:
            return (LOOPBACK if self.place.address == LOOPBACK else address), port
        return None

    def prepare(self) -> None:
        """Make the folders (0700) and, on the head, the token (0600)."""
        for name in ("ray", "logs", "serve", "progress", "edge", "tmp", "gcs"):
            (self.run_dir / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        # Ray opens what lies in its folder to everybody; this one keeps them out.
        self.run_dir.chmod(0o700)
        if self.place.gcs is None:
            write_private(self.token, secrets.token_hex(32))
        write_wrapper(self.run_dir / "serve", haproxy_binary(), secret_of(self.token))

    def environment(self) -> dict[str, str]:
        """Environment of every process of this service."""
        serve = self.run_dir / "serve"
        chosen = {
            "RAY_ADDRESS": self.ray_address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            ASKS_FOR_SECRET: "1",
            KEEPER_VARIABLE: self.keeper_url,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Three ports with metrics that nobody here reads; the last two know no other way to be closed.
            "RAY_enable_metrics_collection": "0",
            "AUTOSCALER_METRIC_PORT": NO_PORT,
            "DASHBOARD_METRIC_PORT": NO_PORT,
            # Ray runs its workers at nice 15; an engine is no background work.
            "RAY_worker_niceness": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
            "RAYLLM_ENABLE_WORKER_PROCESS_SETUP_HOOK": "0",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(serve / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(serve / "sock"),  # short, see launch.py
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(serve / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(serve),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(serve / "server-state"),
            PROXY_VARIABLE: str(serve / "haproxy"),
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": MIDDLEWARES,
            "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH": CONTROLLERS_CLOCK,
            "RAY_SERVE_HAPROXY_STATS_PORT": str(self.ports.haproxy_stats),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(self.ports.haproxy_metrics),
            # One log line to a socket for each request, parsed again in Python: the gateway counts instead.
            "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
            # Ray 2.58 takes 20,000, and HAProxy then wants 50,027 open files.
            "RAY_SERVE_HAPROXY_MAXCONN": "4096",
            # What Serve does beside the tokens: loop and metrics ten times a second, log lines twice, the collector.
            "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
            "RAY_SERVE_LOG_TO_STDERR": "0",
            "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
            "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",
            # A replica that fails its checks gives its GPUs back at once; what a dead engine had, has failed by then.
            "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
            # Otherwise every piece of a stream crosses from the engine client's thread to the HTTP server's.
            "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(self.ports.fallback),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(self.ports.replicas),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(self.ports.replicas + REPLICA_PORTS - 1),
            DIRECTORY_VARIABLE: str(self.progress),
            **self._environment_among_nodes(),
            **self._environment_of_head(),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.run_dir / "tmp"),
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        inherited = {name: value for name, value in os.environ.items() if name not in OTHERS}
        return {**inherited, "PATH": path, **chosen, **self.extra}

    @property
    def gcs_log(self) -> Path:
        """A line for each time that Ray's GCS ended and was started again: its exit status."""
        return self.run_dir / "gcs" / "restarts"

    def _environment_of_head(self) -> dict[str, str]:
        """What the GCS knows is in a folder, so that one that was killed can be followed by another."""
        if self.place.gcs is not None:
            return {}
        return {
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": str(self.run_dir / "gcs" / "store"),
            GCS_LOG_VARIABLE: str(self.gcs_log),
        }

    def _environment_among_nodes(self) -> dict[str, str]:
        if self.place.address == LOOPBACK:
            return {}
        return {
            "VLLM_HOST_IP": self.place.address,
            # By Ray's defaults a dead node is noticed after half a minute, a dead head after a whole one. A check that
            # fails takes 1.5 s with its pause.
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_timeout_ms": "1000",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
            "RAY_health_check_failure_threshold": str(max(1, int(self.place.node_timeout_s / 1.5))),
        }

    def head_command(self) -> list[str]:
        """`ray start` for the head; --block keeps its processes in our tree."""
        return [
            *self._start("app.ray_head"), "--head", f"--port={self.ports.gcs}",
            f"--ray-client-server-port={self.ports.client}",
            f"--dashboard-host={LOOPBACK}", f"--dashboard-port={self.ports.dashboard}",
            f"--include-dashboard={'true' if self.dashboard else 'false'}",
            *self._offer(),
        ]  # fmt: skip

    def worker_command(self) -> list[str]:
        """`ray start` for a node that joins the head at `place.gcs`."""
        return [*self._start("ray.scripts.scripts"), f"--address={self.place.gcs}", *self._offer()]

    def _start(self, module: str) -> list[str]:
        return [
            sys.executable, "-m", module, "start", "--block", "--disable-usage-stats",
            f"--node-ip-address={self.place.address}", f"--temp-dir={self.run_dir / 'ray'}",
            f"--dashboard-agent-listen-port={self.ports.agent}", "--include-log-monitor=false",
            f"--object-store-memory={self.object_store_bytes}", *self._node_ports(),
        ]  # fmt: skip

    def _node_ports(self) -> list[str]:
        ports = self.ports
        if not ports.workers:
            return []
        return [
            f"--node-manager-port={ports.node_manager}", f"--object-manager-port={ports.object_manager}",
            f"--runtime-env-agent-port={ports.runtime_env_agent}", f"--dashboard-agent-grpc-port={ports.agent_grpc}",
            f"--metrics-export-port={ports.metrics_export}",
            f"--min-worker-port={ports.workers[0]}", f"--max-worker-port={ports.workers[-1]}",
        ]  # fmt: skip

    def _offer(self) -> list[str]:
        """What tasks and actors may take of this node."""
        place = self.place
        return [
            *([] if self.cpus is None else [f"--num-cpus={self.cpus:g}"]),
            *([] if place.gpus is None else [f"--num-gpus={place.gpus}"]),
            *([f"--resources={json.dumps(dict(place.resources))}"] if place.resources else []),
        ]


async def start_head(cluster: Cluster) -> asyncio.subprocess.Process:
    """Start Ray's head and wait until its GCS answers. Raises ClusterError with the end of its log."""
    return await _started(cluster, cluster.head_command(), "Ray's head")


async def start_worker(cluster: Cluster) -> asyncio.subprocess.Process:
    """Start Ray on a further node and wait until it has joined. Raises ClusterError with the end of its log."""
    return await _started(cluster, cluster.worker_command(), "Ray on this node")


async def _started(cluster: Cluster, command: list[str], what: str) -> asyncio.subprocess.Process:
    log = cluster.run_dir / "logs" / "ray.log"
    with open_log(log) as output:
        began = output.tell()
        process = await asyncio.create_subprocess_exec(
            *command, env=cluster.environment(), stdout=output, stderr=output, stdin=asyncio.subprocess.DEVNULL
        )
    try:
        await asyncio.wait_for(_until_started(process, log, began, what), START_TIMEOUT_S)
    except TimeoutError:
        raise ClusterError(f"{what} did not start within {START_TIMEOUT_S} s: {_tail(log)}") from None
    return process


async def _until_started(process: asyncio.subprocess.Process, log: Path, began: int, what: str) -> None:
    while b"Ray runtime started" not in log.read_bytes()[began:]:
        if process.returncode is not None:
            raise ClusterError(f"{what} ended with status {process.returncode}: {_tail(log)}")
        await asyncio.sleep(0.1)


def _tail(log: Path, lines: int = 5) -> str:
    return " | ".join(log.read_text(errors="replace").strip().splitlines()[-lines:])
