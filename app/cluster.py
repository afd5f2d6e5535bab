"""A Ray of the service's own: private folder, private token, its own ports, and nothing outside it touched."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.ports import free_ports, free_range
from deployments.progress import DIRECTORY_VARIABLE

REPLICA_PORTS = 400
START_TIMEOUT_S = 180


class ClusterError(Exception):
    """Ray did not start; the message says what its log says."""


@dataclass(frozen=True)
class Ports:
    """Every port that Ray and Serve would otherwise choose alike for all users of a node."""

    gcs: int
    client: int
    agent: int
    dashboard: int
    serve: int
    fallback: int
    haproxy_stats: int
    haproxy_metrics: int
    replicas: int

    @classmethod
    def choose(cls) -> Ports:
        gcs, client, agent, dashboard, serve, fallback, stats, metrics = free_ports(8)
        replicas = free_range(REPLICA_PORTS)
        return cls(gcs, client, agent, dashboard, serve, fallback, stats, metrics, replicas)


@dataclass(frozen=True)
class Cluster:
    """Where this service's Ray lives. `cpus` None offers what the host has."""

    run_dir: Path
    ports: Ports
    cpus: float | None
    object_store_bytes: int
    dashboard: bool
    extra: Mapping[str, str]

    @property
    def ray_address(self) -> str:
        return f"127.0.0.1:{self.ports.gcs}"

    @property
    def serve_address(self) -> str:
        return f"127.0.0.1:{self.ports.serve}"

    def replica(self, port: int) -> tuple[str, int] | None:
        """Where a replica listens, on loopback whatever address Serve tells; None for a proxy's port."""
        if self.ports.replicas <= port < self.ports.replicas + REPLICA_PORTS:
            return "127.0.0.1", port
        return None

    def prepare(self) -> None:
        """Make the folders (0700) and the token (0600)."""
        for name in ("ray", "logs", "serve", "progress", "edge"):
            (self.run_dir / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        token = self.run_dir / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))

    def environment(self) -> dict[str, str]:
        """Environment of every process of this service."""
        serve = self.run_dir / "serve"
        chosen = {
            "RAY_ADDRESS": self.ray_address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.run_dir / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray runs its workers at nice 15; an engine is no background work.
            "RAY_worker_niceness": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
            "RAYLLM_ENABLE_WORKER_PROCESS_SETUP_HOOK": "0",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(serve / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(serve / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(serve / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(serve),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(serve / "server-state"),
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
            # Otherwise every piece of a stream crosses from the engine client's thread to the HTTP server's.
            "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(self.ports.fallback),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(self.ports.replicas),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(self.ports.replicas + REPLICA_PORTS - 1),
            DIRECTORY_VARIABLE: str(self.run_dir / "progress"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONUNBUFFERED": "1",
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return {**os.environ, "PATH": path, **chosen, **self.extra}

    def head_command(self) -> list[str]:
        """`ray start` for the head; --block keeps its processes in our tree."""
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats",
            "--node-ip-address=127.0.0.1", f"--port={self.ports.gcs}", f"--temp-dir={self.run_dir / 'ray'}",
            f"--ray-client-server-port={self.ports.client}", f"--dashboard-agent-listen-port={self.ports.agent}",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={self.ports.dashboard}",
            f"--include-dashboard={'true' if self.dashboard else 'false'}", "--include-log-monitor=false",
            f"--object-store-memory={self.object_store_bytes}",
        ]  # fmt: skip
        return command if self.cpus is None else [*command, f"--num-cpus={self.cpus:g}"]


async def start_head(cluster: Cluster) -> asyncio.subprocess.Process:
    """Start Ray's head and wait until its GCS answers. Raises ClusterError with the end of its log."""
    log = cluster.run_dir / "logs" / "ray.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *cluster.head_command(), env=cluster.environment(), stdout=output, stderr=output,
            stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    try:
        await asyncio.wait_for(_until_started(process, log), START_TIMEOUT_S)
    except TimeoutError:
        raise ClusterError(f"Ray's head did not start within {START_TIMEOUT_S} s: {_tail(log)}") from None
    return process


async def _until_started(process: asyncio.subprocess.Process, log: Path) -> None:
    while b"Ray runtime started" not in log.read_bytes():
        if process.returncode is not None:
            raise ClusterError(f"Ray's head ended with status {process.returncode}: {_tail(log)}")
        await asyncio.sleep(0.1)


def _tail(log: Path, lines: int = 5) -> str:
    return " | ".join(log.read_text(errors="replace").strip().splitlines()[-lines:])
