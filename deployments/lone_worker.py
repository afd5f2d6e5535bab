"""vLLM's CPU worker for an engine of one process: it talks to nobody, so it keeps no threads to do so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg  # noqa: F401 - registers the backend `fake`
from vllm.v1.worker.cpu_worker import CPUWorker


class LoneWorker(CPUWorker):  # type: ignore[misc]
    """Makes vLLM's process groups of one rank with the backend `fake`, which does nothing.

    Each of gloo's has a thread that wakes a hundred times a second; vLLM makes 13, so four idle models cost a machine
    5,000 context switches a second.
    """

    def init_device(self) -> None:
        with _no_gloo():
            super().init_device()


@contextmanager
def _no_gloo() -> Iterator[None]:
    kept = dist.init_process_group, dist.new_group
    dist.init_process_group, dist.new_group = (_with_fake(make) for make in kept)
    try:
        yield
    finally:
        dist.init_process_group, dist.new_group = kept


def _with_fake(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(*args: Any, backend: Any = None, **options: Any) -> Any:
        return make(*args, backend="fake" if backend == "gloo" else backend, **options)

    return made
