"""vLLM's CPU worker for an engine of one process: it talks to nobody, so it keeps no threads to do so.

It also keeps a seeded request from ending the engine, which vLLM's CPU worker lets happen.
"""

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
        runner = self.model_runner
        runner._bookkeeping_sync = _with_seeds_kept(runner, runner._bookkeeping_sync)


def _with_seeds_kept(runner: Any, bookkeep: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's method, made safe for requests with a seed whose prompt is read in several steps.

    What such a step samples is discarded, and vLLM winds the request's generator back by its offset, which only those
    of GPUs have: the engine dies of it. A generator begins anew instead, since nothing of it has been used yet.
    """

    def kept(*args: Any, **options: Any) -> Any:
        batch = runner.input_batch
        every = batch.generators
        discarded = [index for index in every if runner.discard_request_mask.np[index]]
        for index in discarded:
            every[index].manual_seed(every[index].initial_seed())
        batch.generators = {index: every[index] for index in every if index not in discarded}
        try:
            return bookkeep(*args, **options)
        finally:
            batch.generators = every

    return kept


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
