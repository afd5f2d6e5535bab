"""An engine's process that has imported vLLM by the time the replica has: half of a start's seconds are those imports.

Ray calls `warm` when a replica's process starts (its worker_process_setup_hook). The first one on a node starts a fork
server, which imports what EngineCore needs while the replica imports its own; vLLM would spawn EngineCore afterwards
and import everything again. Replicas with the same environment share the server: it imports once, and the engines
share its memory. Nothing but imports happens before a fork: no thread of vLLM's, no device.

It is Python's own fork server, with a name by which other processes find it. It ends with the last replica that has
opened its FIFO; an engine ends with its replica, and with the server.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import logging
import os
import select
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, process, reduction, resource_tracker, spawn, util
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

HOOK = "deployments.warm_engine.warm"
PRELOAD = ["deployments.warm_engine_imports"]
READ_AT_IMPORT = ("OMP_", "KMP_", "GOMP_", "MKL_", "LD_", "MALLOC_", "TORCH", "PYTHON", "VLLM_", "HF_", "CUDA_")
"""Begins of the variables that libraries may read once; the others an engine gets from its replica."""
PR_SET_PDEATHSIG = 1
F_SETSIG = 10
SERVER: Any = forkserver._forkserver


def warm() -> None:
    """Find this node's fork server, or start it; it goes on importing while this returns. Without one engines are
    spawned, as vLLM does it.
    """
    SERVER.ensure_running = resource_tracker.ensure_running  # Python's own looks for a server that is its child
    try:
        with _lock() as place:
            if not _join(place):
                _start(place)
    except OSError as error:  # a folder that takes no sockets, or a path that is too long for one
        logging.getLogger(__name__).warning("no warm engines: %s", error)


def is_running() -> bool:
    """Whether `warm` was called in this process."""
    return SERVER._forkserver_pid is not None


@contextmanager
def _lock() -> Iterator[Path]:
    """The path of the server's files, without their endings, held against other processes."""
    place = _folder() / _key()
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield place


def _folder() -> Path:
    """A folder that is this user's alone: whoever answers there gets to run as an engine."""
    folder = Path(tempfile.gettempdir()) / f"warm-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        folder = Path(tempfile.mkdtemp(prefix="warm-"))
    return folder


def _key() -> str:
    """The same for processes whose engines may be forked from one server; the folder may be seen by other nodes."""
    read = sorted(item for item in os.environ.items() if item[0].startswith(READ_AT_IMPORT))
    return hashlib.sha256(repr((socket.gethostname(), read, PRELOAD)).encode()).hexdigest()[:8]


def _join(place: Path) -> bool:
    """Keep the server from ending while this process lives; False if there is none."""
    try:
        alive = os.open(place.with_suffix(".fifo"), os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):  # no FIFO, or nobody who reads it
            return False
        raise
    SERVER._forkserver_address, SERVER._forkserver_alive_fd = str(place.with_suffix(".sock")), alive
    SERVER._forkserver_pid = 0  # that of another process's child
    return True


def _start(place: Path) -> None:
    """Start Python's fork server with a socket and a FIFO that have names."""
    address, fifo = place.with_suffix(".sock"), place.with_suffix(".fifo")
    for left in (address, fifo):
        left.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(64)
        os.mkfifo(fifo, 0o600)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            _join(place)
            _spawn(listener.fileno(), reader)
        finally:
            os.close(reader)


def _spawn(listener: int, reader: int) -> None:
    """Python's fork server in a process of its own, which is nobody's child and has its own process group.

    Ray kills the children of a replica that ends, and the group of one that dies, and here are others' engines. Not a
    session of its own: Linux shares a core among sessions first (autogroups), and engines in a session apart from their
    replicas' gave a third fewer tokens a second beside other load.
    """
    data = spawn.get_preparation_data("ignore")
    given = {name: data[name] for name in ("main_path", "sys_path") if name in data}
    call = f"main({listener}, {reader}, {PRELOAD!r}, **{given!r})"
    command = [spawn.get_executable(), *util._args_from_interpreter_flags()]  # type: ignore[attr-defined]
    leave = "os.fork() and os._exit(0); os.setpgid(0, 0)"
    command += ["-c", f"import os; {leave}; from multiprocessing.forkserver import main; {call}"]
    os.waitpid(util.spawnv_passfds(command[0], command, [listener, reader]), 0)


class WarmProcess(ForkServerProcess):
    """A process forked from the server, with the environment and the output that this one has when it starts."""

    def start(self) -> None:
        self._environment = dict(os.environ)
        super().start()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_output": (reduction.DupFd(1), reduction.DupFd(2))}

    def run(self) -> None:
        self._take_output()
        os.close(SERVER._forkserver_alive_fd)  # which is for replicas
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _die_with_parent()
        for name in os.environ.keys() - self._environment.keys():
            del os.environ[name]
        os.environ.update(self._environment)
        super().run()

    def _take_output(self) -> None:
        for number, given in enumerate(self._output, start=1):  # type: ignore[attr-defined]
            mine = given.detach()
            os.dup2(mine, number)
            os.close(mine)


def _die_with_parent() -> None:
    """Have the kernel kill this process when the one that asked for it ends, whatever this one does then."""
    parent = process.parent_process()
    assert parent
    pipe: int = parent.sentinel
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    gone, _, _ = select.select([pipe], [], [], 0)
    if gone:
        os._exit(1)


class WarmContext(ForkServerContext):
    """multiprocessing's context of such processes."""

    Process = WarmProcess


def use() -> None:
    """Have vLLM start the engine of this process so. It asks for its context in each of its modules by name."""
    import vllm.v1.engine.utils as vllm_engines

    context: Any = WarmContext()
    vllm_engines.get_mp_context = lambda: context
