"""Corral and bare vLLM, each started for a while, with logs that are kept; what an earlier run left is ended first.

As loadtests.servers, for a machine where Corral is not installed but lies there as a repository, and a start takes
minutes.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from loadtests.gpu.profile import Place
from loadtests.servers import DIRECT, HOST, EnginePlan, Running, ServerError, free_ports, process

ROOT = Path(__file__).parents[2]
CORRAL = (sys.executable, "-m", "app.cli")
COMMAND_S = 180
POLL_S = 0.25
STATE, PID = "state", "vllm.pid"


def environment(out: Path) -> dict[str, str]:
    """Of every server: this repository can be imported, and the services of this run are apart from all others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "CORRAL_STATE_DIR": str(out / STATE), "CUDA_VISIBLE_DEVICES": gpu_id()}


def gpu_id() -> str:
    """The one GPU of both servers, however many there are, as CUDA and nvidia-smi name it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()


def corral(*arguments: str, out: Path | None = None, fails: bool = False, within_s: float | None = COMMAND_S) -> str:
    """What the command prints. Raises ServerError if it ends badly, unless it `fails` for what does not matter."""
    done = subprocess.run(
        [*CORRAL, *arguments], stdout=subprocess.PIPE, text=True, timeout=within_s, check=False,
        env=environment(out or Path.cwd()), cwd=ROOT,
    )  # fmt: skip
    if done.returncode and not fails:
        raise ServerError(f"corral {arguments[0]} ended with status {done.returncode}; its reason stands above")
    return done.stdout


def engine_plan(place: Place, model: str) -> EnginePlan:
    """What `corral engine` tells of a model. Raises ServerError."""
    told = json.loads(corral("engine", model, "--profile", str(place.profile), "--json"))
    return EnginePlan(model, tuple(told["arguments"]), told["environment"])


@contextmanager
def corral_up(place: Place, model: str, within_s: float) -> Iterator[str]:
    """`corral up` to `corral down`; yields the address. Raises ServerError, and then the model's log is kept."""
    out, name, port = place.folder.parent, f"gpu-bench-{secrets.token_hex(2)}", free_ports(1)[0]
    try:
        arguments = ["--profile", str(place.profile), "--name", name, "--port", str(port), "--json"]
        try:
            corral("up", *arguments, "--timeout", f"{within_s:.0f}", out=out, within_s=None)
        except ServerError:
            _keep_logs(place, model, name)
            raise
        yield f"http://{HOST}:{port}"
    finally:
        with suppress(ServerError, subprocess.TimeoutExpired):
            corral("down", "--name", name, out=out)


def _keep_logs(place: Place, model: str, name: str) -> None:
    """What the service and the model said, for they go with the service."""
    place.logs.mkdir(parents=True, exist_ok=True)
    told = [
        corral("logs", *of, "--name", name, "-l", "400", out=place.folder.parent, fails=True) for of in ([], [model])
    ]
    (place.logs / "corral.log").write_text("\n".join(told))


@contextmanager
def vllm_up(place: Place, model: str, within_s: float) -> Iterator[str]:
    """vLLM's own server on the engine arguments that Corral uses; yields the address. Raises ServerError."""
    plan, out, port = engine_plan(place, model), place.folder.parent, free_ports(1)[0]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--disable-uvicorn-access-log",
        "--host", HOST, "--port", str(port), *plan.arguments,
    ]  # fmt: skip
    # on a CPU vLLM would put the worker into a process of its own, which Corral does not
    on_cpu = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if "uni" in plan.arguments else {}
    variables = {**environment(out), **plan.environment, **on_cpu}
    place.logs.mkdir(parents=True, exist_ok=True)
    with process(command, variables, place.logs / "vllm.log") as running:
        _remember(running.process.pid, out / PID)
        try:
            _wait_for(f"http://{HOST}:{port}/health", running, within_s)
            yield f"http://{HOST}:{port}"
        finally:
            (out / PID).unlink(missing_ok=True)


def _wait_for(url: str, running: Running, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with suppress(urllib.error.URLError, OSError), DIRECT.open(url, timeout=2):
            return
        if running.process.poll() is not None:
            raise ServerError(f"vLLM's server ended with status {running.process.returncode}: see {running.log}")
        time.sleep(POLL_S)
    raise ServerError(f"vLLM's server did not answer within {within_s:.0f} s: see {running.log}")


def _remember(pid: int, path: Path) -> None:
    path.write_text(json.dumps({"pid": pid, "created": psutil.Process(pid).create_time()}))


def end_leftovers(out: Path) -> list[str]:
    """Ends the servers of a run into this folder that was killed; returns what they were."""
    found = []
    for state in sorted((out / STATE).glob("*.json")):
        corral("down", "--name", state.stem, out=out, fails=True)
        found.append(f"the service {state.stem}")
    with suppress(OSError, ValueError, KeyError, psutil.NoSuchProcess):
        told = json.loads((out / PID).read_text())
        left = psutil.Process(told["pid"])
        if left.create_time() == told["created"]:
            _end(left)
            found.append("a server of vLLM's")
    (out / PID).unlink(missing_ok=True)
    return found


def _end(left: psutil.Process) -> None:
    """It and what it started: TERM, then KILL."""
    family = [left, *left.children(recursive=True)]
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for each in family:
            with suppress(psutil.NoSuchProcess):
                ask(each)
        _, family = psutil.wait_procs(family, timeout=15)
