"""An engine's process that has imported vLLM by the time the replica has: half of a start's seconds are those imports.

Ray calls `warm` when a replica's process starts (its worker_process_setup_hook). It starts Python's fork server, which
imports what EngineCore needs while the replica imports its own; vLLM would spawn EngineCore afterwards and import
everything again. Nothing but imports happens before the fork: no thread of vLLM's, no device.
"""

from __future__ import annotations

import ctypes
import os
import signal
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

HOOK = "deployments.warm_engine.warm"
PRELOAD = ["deployments.warm_engine_imports"]
PR_SET_PDEATHSIG = 1


def warm() -> None:
    """Start the fork server; it goes on importing while this returns."""
    forkserver.set_forkserver_preload(PRELOAD)
    forkserver.ensure_running()


class WarmProcess(ForkServerProcess):
    """A process forked from the server, with the environment that this one has when it starts."""

    def start(self) -> None:
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        # The server ends with the replica, however that ends, and the engine with the server.
        os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for name in os.environ.keys() - self._environment.keys():
            del os.environ[name]
        os.environ.update(self._environment)
        super().run()


class WarmContext(ForkServerContext):
    """multiprocessing's context of such processes."""

    Process = WarmProcess


def use() -> None:
    """Have vLLM start the engine of this process so. It asks for its context in each of its modules by name."""
    import vllm.v1.engine.utils as vllm_engines

    context: Any = WarmContext()
    vllm_engines.get_mp_context = lambda: context


def is_running() -> bool:
    """Whether `warm` was called in this process."""
    return forkserver._forkserver._forkserver_pid is not None  # type: ignore[attr-defined]
