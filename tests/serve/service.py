"""One running Corral as a test sees it: its address, its command line, its processes and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.state import ServiceState
from tests.waiting import PATIENCE_S, until

CORRAL = Path(sys.executable).with_name("corral")
ROOT = Path(__file__).parents[2]
LONGEST_FILE = 256 << 20


@dataclass(frozen=True)
class RunningService:
    """A service of a test's own. `state_dir` is $CORRAL_STATE_DIR, `started` what `corral up --json` printed."""

    name: str
    url: str
    profile: Path
    state_dir: Path
    started: dict[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return service_environment(self.state_dir, self.name)

    @property
    def state(self) -> ServiceState:
        return ServiceState(**json.loads((self.state_dir / f"{self.name}.json").read_text()))

    def corral(
        self, *arguments: str, text: str = "", timeout_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run `corral ARGUMENTS` with `text` on its standard input."""
        return run_corral(self.environment, *arguments, text=text, timeout_s=timeout_s)

    def running(self, model: str) -> int:
        """Sequences that the engine of `model` runs or holds waiting, as /metrics tells."""
        return round(
            sum(self.series("vllm:num_requests_running", model) + self.series("vllm:num_requests_waiting", model))
        )

    def series(self, metric: str, model: str) -> list[float]:
        """Values of a metric's series that carry this corral_model."""
        text = httpx.get(f"{self.url}/metrics", timeout=PATIENCE_S).text
        pattern = re.compile(rf'^{re.escape(metric)}{{[^}}]*corral_model="{re.escape(model)}"[^}}]*}} (\S+)$', re.M)
        return [float(value) for value in pattern.findall(text)]

    def model_state(self, model: str) -> str:
        """The state that /v1/models shows."""
        return str(httpx.get(f"{self.url}/v1/models/{model}", timeout=PATIENCE_S).json()["state"])

    def processes(self) -> list[psutil.Process]:
        """The service's own process and all below it."""
        return family(self.state.pid)

    @property
    def edge_log(self) -> Path:
        return Path(self.state.run_dir) / "edge" / "edge.log"

    def until_logged(self) -> None:
        """What is written of a request comes after its answer."""
        last = f"last-{secrets.token_hex(8)}"
        told = httpx.get(f"{self.url}/health", headers={"x-request-id": last}, timeout=PATIENCE_S, trust_env=False)
        told.raise_for_status()
        until(lambda: last in self.edge_log.read_text(), what="the last line")

    def written(self) -> Iterator[tuple[Path, bytes]]:
        """Every file that it has, its state, its logs, Ray's and Serve's, but for what it has removed meanwhile."""
        for folder in (Path(self.state.run_dir), self.state_dir):
            for path in folder.rglob("*"):
                with suppress(OSError):
                    if path.is_file() and not path.is_symlink() and path.stat().st_size < LONGEST_FILE:
                        yield path, path.read_bytes()

    def engine_processes(self, model: str) -> list[psutil.Process]:
        """EngineCore of each replica of `model`: it writes to the replica's output, whoever's child it is."""
        there = self.processes()
        outputs = {output(each) for each in there if title(each).startswith(f"ray::ServeReplica:model-{model}:")}
        return [each for each in there if "EngineCore" in title(each) and output(each) in outputs]


def service_environment(state_dir: Path, name: str) -> dict[str, str]:
    """This process's environment with another state folder, and none of the person's own settings."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("CORRAL_", "RAY_"))}
    return {**inherited, "CORRAL_STATE_DIR": str(state_dir), "CORRAL_NAME": name, "COLUMNS": "200"}


def run_corral(
    environment: Mapping[str, str], *arguments: str, text: str = "", timeout_s: float = PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(CORRAL), *arguments], env=dict(environment), cwd=ROOT, input=text, capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip


def output(process: psutil.Process) -> str:
    """The file that is its standard output; its own id if it has just ended."""
    try:
        return str(Path(f"/proc/{process.pid}/fd/1").readlink())
    except OSError:
        return str(process.pid)


def family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def title(process: psutil.Process) -> str:
    """The process's command line, or nothing if it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@dataclass(frozen=True)
class Traces:
    """What a service could leave behind: processes, ports, folders."""

    processes: list[psutil.Process]
    ports: frozenset[int]
    folders: list[Path]

    @classmethod
    def of(cls, service: RunningService) -> Traces:
        processes = service.processes()
        folders = [Path(service.state.run_dir), service.state_dir / f"{service.name}.json"]
        return cls(processes, frozenset(listening(processes)), folders)

    def left(self) -> list[str]:
        """What of it is still there (a process id that was given out again does not count)."""
        processes = [f"process {each.pid} {title(each)}" for each in self.processes if each.is_running()]
        ports = [f"port {port}" for port in self.ports & listening_ports(psutil.net_connections("tcp"))]
        return [*processes, *ports, *(str(folder) for folder in self.folders if folder.exists())]


def listening(processes: list[psutil.Process]) -> Iterator[int]:
    for process in processes:
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        yield from listening_ports(connections)


def listening_ports(connections: Iterable[Any]) -> set[int]:
    return {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}


@contextmanager
def running_corral(
    name: str, profile: Path, port: int, state_dir: Path, surroundings: Mapping[str, str] | None = None
) -> Iterator[RunningService]:
    """`corral up`, then `corral down`; whatever it leaves behind is an error. surroundings: more of its environment."""
    environment = {**service_environment(state_dir, name), **(surroundings or {})}
    service = RunningService(name, f"http://127.0.0.1:{port}", profile, state_dir)
    try:
        up = run_corral(environment, "up", "--profile", str(profile), "--json", "--timeout", "900", timeout_s=1000)
        assert up.returncode == 0, up.stderr
        yield RunningService(name, service.url, profile, state_dir, json.loads(up.stdout))
        traces = Traces.of(service)
    finally:
        down = run_corral(environment, "down", "--json")
    assert down.returncode == 0, down.stderr
    assert json.loads(down.stdout) == {"name": name, "address": service.url, "stopped": True}
    assert traces.left() == []
