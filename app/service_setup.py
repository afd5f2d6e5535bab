"""What the parts of a service are told of its profile and its cluster: the edge, the keeper, who asks the gateway."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from app.access.keeper_app import KeeperConfig
from app.access.place import keys_file, keys_required, usage_file
from app.access.tls import shown_certificate
from app.cluster import LOOPBACK, Cluster
from app.edge import EdgeSpec, ModelLimits
from app.monitoring.outlook import Outlook
from app.settings import Settings
from deployments.config import ModelSpec
from deployments.replicas import SLACK
from deployments.secret import secret_headers, secret_of


def gateway_client(cluster: Cluster, timeout_s: float) -> httpx.AsyncClient:
    """A client of the gateway that is let in there without a key."""
    address, headers = f"http://{cluster.serve_address}", secret_headers(cluster.token)
    return httpx.AsyncClient(base_url=address, headers=headers, timeout=timeout_s, trust_env=False)


def limits_of(spec: ModelSpec) -> ModelLimits:
    """A bound a little above the replica's own, which orders and refuses what waits by keys."""
    most = spec.max_ongoing_requests + spec.max_queued_requests + SLACK
    return ModelLimits(replicas=spec.autoscaling.max_replicas, in_flight=most, queue=0)


def keeper_config(settings: Settings, cluster: Cluster, name: str, status_file: str = "") -> KeeperConfig:
    """What the keeper is told of the profile and the cluster."""
    asked = keys_required(settings, edge_host(settings, cluster))
    return KeeperConfig(
        folder=str(cluster.run_dir / "edge"),
        host=cluster.place.address,
        port=cluster.ports.keeper,
        secret=secret_of(cluster.token),
        keys=str(keys_file(settings)) if asked else None,
        usage=str(usage_file(settings, name)),
        context_tokens=context_tokens(settings),
        outlook=Outlook(status_file, str(shown_certificate(settings) or "")),
        traces=settings.traces.model_dump() if settings.traces else None,
    )


def context_tokens(settings: Settings) -> dict[str, int]:
    """Served id -> the longest prompt and answer together."""
    return {served: spec.context_tokens for spec in settings.models.values() for served in spec.served_ids}


def edge_host(settings: Settings, cluster: Cluster) -> str:
    """What clients reach the address under: the node's own in a job, else what the profile says."""
    return settings.edge.host if cluster.place.address == LOOPBACK else cluster.place.address


def served_by(settings: Settings) -> tuple[tuple[str, str], ...]:
    """Where each served id leads."""
    return tuple((served, spec.deployed_id) for spec in settings.models.values() for served in spec.served_ids)


def edge_spec(settings: Settings, cluster: Cluster, coming: Sequence[ModelSpec] = ()) -> EdgeSpec:
    """What the edge is told of the profile and the cluster. coming: models that it has room for besides."""
    edge = settings.edge
    return EdgeSpec(
        host=edge_host(settings, cluster),
        port=cluster.ports.edge or edge.port,
        workdir=cluster.run_dir / "edge",
        serve_address=cluster.serve_address,
        secret=secret_of(cluster.token),
        keeper=True,
        gateway_replicas=settings.gateway.replicas,
        admission=keys_required(settings, edge_host(settings, cluster)),
        models=served_by(settings),
        spare=tuple(spec.deployed_id for spec in coming),
        limits={spec.deployed_id: limits_of(spec) for spec in (*settings.models.values(), *coming)},
        max_connections=edge.max_connections,
        bufsize=int(edge.bufsize),
        max_body=int(settings.gateway.max_body),
        bulk_max_body=int(settings.bulk.max_body),
        upload_max_body=int(settings.rag.max_upload),
        connect_timeout_s=edge.connect_timeout_s,
        queue_timeout_s=edge.queue_timeout_s,
        idle_timeout_s=edge.idle_timeout_s,
        fresh_connections=cluster.place.address != LOOPBACK,
        sample=settings.traces.sample if settings.traces else None,
    )
