"""What the fork server imports for an engine that runs alone on CPU, and then keeps the collector's hands off."""

from __future__ import annotations

import gc

import setproctitle
import vllm.model_executor.models.llama
import vllm.v1.engine.core
import vllm.v1.worker.cpu_model_runner  # noqa: F401

import deployments.lone_worker  # noqa: F401

setproctitle.getproctitle()  # it finds its memory only before the environment changes
gc.collect()
gc.freeze()  # the collector would touch, and so copy, every page that the engine shares with the server
