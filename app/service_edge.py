"""What a service does for its edge while it runs: start it again, tell it of keys, of models and of their replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from app.access.keeper import edge_keys
from app.access.key_records import EMPTY, KeysError
from app.access.key_store import KeyStore
from app.access.place import keys_file
from app.bounded_log import say
from app.cluster import Cluster
from app.edge import Edge, EdgeError
from app.serve_config import GATEWAY
from app.settings import Settings
from deployments.config import ModelSpec
from deployments.status import ModelState

KEYS_POLL_S = 1.0
RESTART_S = 0.5
FULL_DISK_S = 5.0


async def guard_edge(edge: Edge, note: Callable[[str], None]) -> None:
    """Start it again whenever it dies. note: told that it broke and is mended."""
    while True:
        code = await edge.wait()
        note(f"the edge ended with status {code} and is started again")
        await asyncio.sleep(RESTART_S)
        await _start_again(edge, note)


async def _start_again(edge: Edge, note: Callable[[str], None]) -> None:
    """Its port is held meanwhile; on a full disk it has to wait for room."""
    while True:
        try:
            return await edge.start()
        except OSError as error:
            note(f"the edge cannot start again yet: {error}")
            await asyncio.sleep(FULL_DISK_S)


async def follow_keys(edge: Edge, settings: Settings) -> None:
    """Have the edge take the keys that are in their file, and no others; nothing where it asks for none."""
    if not edge.spec.admission:
        return
    store, file, told = KeyStore(keys_file(settings)), EMPTY, ""
    while True:
        trouble = ""
        try:
            file = await asyncio.to_thread(store.load)
        except KeysError as error:  # what was read last counts, and its keys expire all the same
            trouble = f"the keys cannot be read: {error}"
        try:
            await edge.set_keys(edge_keys(file, time.time()))
        except EdgeError as error:
            trouble = f"the edge does not take the keys: {error}"
        if trouble and trouble != told:
            say(trouble)
        told = trouble
        await asyncio.sleep(KEYS_POLL_S)


async def route(edge: Edge, models: Iterable[ModelSpec], ready: Any) -> None:
    """Models that do not answer go to the gateway, which says why. ready: what its /ready says."""
    for spec in models:
        told = ready["models"].get(spec.id, {"state": "starting"})  # not there while the gateway is told of it
        for served in spec.served_ids:
            await edge.set_model(served, ModelState(told["state"]).answers)


async def connect(edge: Edge, cluster: Cluster, models: Iterable[ModelSpec], replicas: Mapping[str, Any]) -> None:
    """Requests go straight to replicas, and through Serve where there is none yet.

    replicas: [ip, port] of those of each application, by its name.
    """
    for spec in models:
        found = [cluster.replica(ip, port) for ip, port in replicas.get(spec.app_name, [])]
        if spec.deployed_id in edge.spec.bases:
            await edge.set_replicas(spec.deployed_id, [address for address in found if address])
    found = [cluster.replica(ip, port) for ip, port in replicas.get(GATEWAY, [])]
    await edge.set_gateway([address for address in found if address])
