"""Starting, following and ending a service from another process: what `corral up` and `corral down` do."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil

from app.access.place import keys_required, own_key_file
from app.bounded_log import open_log
from app.ports import taken
from app.processes import birth
from app.settings import Settings
from app.state import DIRECTORY_VARIABLE as STATE_VARIABLE
from app.state import ServiceState, read_state, remove_state, state_directory, write_state
from deployments.progress import DIRECTORY_VARIABLE
from deployments.secret import secret_headers
from deployments.status import ModelState, ModelStatus

RUN_VARIABLE = "CORRAL_RUN_DIR"
"""Where services of this host lay down what they write while they run; /tmp, if it is not set."""
EVERYBODYS, LONGEST_ABOVE = "/tmp", 13  # noqa: S108 - what is made in there is the owner's alone
POLL_S = 0.25
SETTLED = (ModelState.READY, ModelState.IDLE, ModelState.FAILED)


class LaunchError(Exception):
    """The service could not be started; the message has the reason and the next step."""


class NotRunningError(Exception):
    """There is no such service."""


@dataclass(frozen=True)
class Progress:
    """One look at a starting service."""

    state: ServiceState
    models: Mapping[str, ModelStatus]

    @property
    def settled(self) -> bool:
        """Whether every model is ready, idle or failed."""
        return bool(self.models) and all(status.state in SETTLED for status in self.models.values())


def start(settings: Settings, name: str, profile: str) -> ServiceState:
    """Start a service in a session of its own. Raises LaunchError if it runs already or its port is taken."""
    running = read_state(name)
    if running and running.alive():
        raise LaunchError(
            f"the service {name!r} runs already at {running.address}; `corral down` ends it, --name starts another"
        )
    if running:
        _end_orphans(running.run_dir)
    if taken(settings.edge.port, settings.edge.host):
        raise LaunchError(
            f"port {settings.edge.port} on {settings.edge.host} is taken; choose another with --port or edge.port"
        )
    run_dir = _run_folder(os.environ.get(RUN_VARIABLE) or EVERYBODYS)
    process = _spawn(settings, name, profile, run_dir)
    state = _planned(settings, name, profile, run_dir, process.pid)
    try:
        write_state(state)
    except OSError as error:
        process.terminate()
        process.wait()
        shutil.rmtree(run_dir, ignore_errors=True)
        raise LaunchError(
            f"{state_directory()}: {error.strerror}; free some room there, or name another folder in {STATE_VARIABLE}"
        ) from None
    return state


def _run_folder(above: str) -> Path:
    """A new one for a service's logs, sockets and tables. Raises LaunchError.

    Its name is short: Serve's HAProxy has a socket 68 characters further down, and 97 are all that it takes.
    """
    if not re.fullmatch(r"/[A-Za-z0-9._/-]*", above) or len(above) > LONGEST_ABOVE:
        raise LaunchError(
            f"{RUN_VARIABLE}: {above!r} cannot hold the service's sockets; name a folder by at most {LONGEST_ABOVE} "
            "letters, digits and ._-/ from / on, such as /var/tmp"
        )
    run_dir = None
    try:
        _refuse_others(above)
        run_dir = Path(tempfile.mkdtemp(prefix="corral-", dir=above))
        (run_dir / "logs").mkdir(mode=0o700)
    except OSError as error:
        if run_dir:
            shutil.rmtree(run_dir, ignore_errors=True)
        raise LaunchError(
            f"nothing can be put into {above}: {error.strerror}; {RUN_VARIABLE} names another folder"
        ) from None
    return run_dir


def _refuse_others(above: str) -> None:
    """Whoever may rename what lies in a folder may put programs of their own in its place. Raises LaunchError."""
    found = Path(above).stat()
    shared = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
    if shared or found.st_uid not in (0, os.getuid()):
        raise LaunchError(
            f"{RUN_VARIABLE}: others may replace what lies in {above}; name a folder of your own, or one like /tmp "
            "(mode 1777)"
        )


def _spawn(settings: Settings, name: str, profile: str, run_dir: Path) -> subprocess.Popen[bytes]:
    with open_log(run_dir / "logs" / "service.log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.service", name, profile, str(run_dir)],
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, cwd=run_dir,
        )  # fmt: skip
    if process.stdin is None:
        raise LaunchError("the service has no standard input")
    with process.stdin:
        process.stdin.write(settings.model_dump_json().encode())
    return process


def _planned(settings: Settings, name: str, profile: str, run_dir: Path, pid: int) -> ServiceState:
    return ServiceState(
        name=name,
        pid=pid,
        created=birth(pid),
        profile=profile,
        run_dir=str(run_dir),
        address=address_of(settings),
        key_file=str(own_key_file(settings)) if keys_required(settings, settings.edge.host) else "",
    )


def address_of(settings: Settings) -> str:
    """The address of a service on this host."""
    return f"{'https' if settings.access.tls else 'http'}://{settings.edge.host}:{settings.edge.port}"


def follow(name: str, timeout_s: float, sleep: Callable[[float], None] = time.sleep) -> Iterator[Progress]:
    """Look at a starting service again and again until it has settled. Raises LaunchError if it fails."""
    deadline = time.monotonic() + timeout_s
    while True:
        progress = look(name)
        yield progress
        if progress.state.phase == "serving" and progress.settled:
            return
        if time.monotonic() > deadline:
            raise LaunchError(f"not ready after {timeout_s:g} s; `corral logs` says more, `corral down` ends it")
        sleep(POLL_S)


def look(name: str) -> Progress:
    """What a service is doing now. Raises NotRunningError or LaunchError."""
    state = read_state(name)
    if state is None:
        raise NotRunningError(f"no service {name!r} runs here; `corral up` starts one")
    if state.phase == "failed" or not state.alive():
        raise LaunchError(f"the service {name!r} ended: {state.error or _last_words(state)}")
    return Progress(state, models(state))


def _last_words(state: ServiceState) -> str:
    try:
        lines = (state.logs / "service.log").read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it left no word; the machine may have run out of memory"


def models(state: ServiceState) -> dict[str, ModelStatus]:
    """States of the models, as the gateway tells them; empty until it answers."""
    if not state.serve_address or state.phase not in ("serving", "deploying"):
        return {}
    try:
        headers = secret_headers(state.token_path)
        answer = httpx.get(f"http://{state.serve_address}/ready", headers=headers, timeout=5, trust_env=False).json()
        return {model: _status(model, found) for model, found in answer["models"].items()}
    except (httpx.HTTPError, ValueError, KeyError):
        return {}


def _status(model: str, found: Mapping[str, object]) -> ModelStatus:
    known = {key: value for key, value in found.items() if key in ModelStatus.__dataclass_fields__}
    status = ModelStatus(**{"id": model, **known})  # type: ignore[arg-type]
    return replace(status, state=ModelState(status.state))


def stop(name: str, timeout_s: float = 60) -> ServiceState:
    """End a service and everything it started. Raises NotRunningError; LaunchError if it does not end."""
    state = read_state(name)
    if state is None:
        raise NotRunningError(f"no service {name!r} runs here")
    if state.alive():
        process = psutil.Process(state.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except psutil.TimeoutExpired:
            raise LaunchError(f"process {state.pid} did not end within {timeout_s:g} s") from None
    _end_orphans(state.run_dir)
    remove_state(name)
    shutil.rmtree(state.run_dir, ignore_errors=True)
    return state


def _end_orphans(run_dir: str, grace_s: float = 8) -> None:
    """End what is left of a service that was killed outright and so could not end its own."""
    left = _processes_of(run_dir)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.Error):
                end(process)
        _, left = psutil.wait_procs(left, timeout=grace_s)


def _processes_of(run_dir: str) -> list[psutil.Process]:
    """Processes that were given this run folder in their environment, or work in it.

    Ray's agents write their titles over their environment. Who stands in the folder at a terminal is a person.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            places = [process.environ().get(DIRECTORY_VARIABLE, "")]
            places += [process.cwd()] if process.terminal() is None else []
            if any(Path(place).is_relative_to(run_dir) for place in places if place):
                found.append(process)
    return found
