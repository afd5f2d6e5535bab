"""What Ray knows: the status of every application, where its replicas listen, which nodes live."""

from __future__ import annotations

from typing import Any

import ray
from ray import serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from deployments.herd import word


def read_status() -> Any:
    """Serve's status. Blocks for milliseconds."""
    return serve.status()


def read_nodes() -> dict[str, bool]:
    """Address of every node that Ray has known -> whether one lives there now. Blocks for milliseconds."""
    alive: dict[str, bool] = {}
    for node in ray.nodes():
        address = node["NodeManagerAddress"]
        alive[address] = alive.get(address, False) or node["Alive"]
    return alive


async def replica_addresses() -> dict[str, list[tuple[str, int]]]:
    """Application -> (ip, port) of every running replica's own HTTP server, as Serve tells its proxies.

    Serve has no public call for it outside the dashboard. An application without replicas may show its proxy.
    """
    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    groups = await controller.get_target_groups.remote(from_proxy_manager=True)
    return {
        group.app_name: [(target.ip, target.port) for target in group.targets]
        for group in groups
        if word(group.protocol) == "HTTP"
    }
