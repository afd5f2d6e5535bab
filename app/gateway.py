"""The gateway application: builds the clients of the models, then the web app over them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
from fastapi import APIRouter

from app.access.guards import GuardedRetrieval, GuardedTribunals
from app.access.items import ItemQuota, KeeperItemQuota, NoItemQuota
from app.metrics import merge_engine_metrics
from app.middleware import CancelledOnce, log
from app.relay import Upstream
from app.replica_urls import ReplicaUrls, url
from app.retrieval.resolved import embedder_id, incoming_folder
from app.serve_config import RETRIEVAL, TRIBUNAL
from app.services import BulkLimits, Limits, Services, no_metrics
from app.settings import Settings
from app.web import create_app
from deployments.config import ModelSpec
from deployments.herd import ServeHerd
from deployments.model_client import ModelClient
from deployments.principal import SECRET_HEADER
from deployments.retrieval.client import RetrievalClient
from deployments.secret import KEEPER_VARIABLE, Door, own_secret
from deployments.serve_state import read_nodes, read_status, replica_addresses
from deployments.tribunal.client import TribunalClient

BULK_IN_FLIGHT = 256
IN_FLIGHT_SHARE = 2
"""Bulk items for each sequence of a model's engines: those in them, those that wait there, those on their way."""


class Gateway:
    """A Serve deployment; one replica is one process of the gateway."""

    def __init__(self, settings: str, serve_host: str, serve_port: int, failures: Mapping[str, str]) -> None:
        self._settings = Settings.model_validate_json(settings)
        self._serve = (serve_host, serve_port)
        self._failures = failures

    async def __serve_build_asgi_app__(self) -> Any:
        services = build_services(self._settings, self._serve, self._failures)
        app = create_app(services, [internal_router()], Door(own_secret()))
        app.add_middleware(CancelledOnce)
        return app


def internal_router() -> APIRouter:
    """What the service asks of the gateway; the edge lets no client come here."""
    router = APIRouter(prefix="/internal", include_in_schema=False)

    @router.get("/replicas")
    async def replicas() -> dict[str, list[tuple[str, int]]]:
        return await replica_addresses()

    @router.get("/nodes")
    async def nodes() -> dict[str, bool]:
        return await asyncio.to_thread(read_nodes)

    return router


def build_services(settings: Settings, serve: tuple[str, int], failures: Mapping[str, str]) -> Services:
    """Clients of every model of the profile, and the limits."""
    specs = settings.specs
    herd = ServeHerd(specs, failures, read=read_status)
    clients = {served: ModelClient(spec.id, served, spec.retry_after_s) for spec in specs for served in spec.served_ids}
    chatting = {served: clients[served] for spec in specs if spec.task == "generate" for served in spec.served_ids}
    return Services(
        models=chatting,
        base_of={served: spec.id for spec in specs for served in spec.served_ids},
        herd=herd,
        upstream=Upstream(_http(serve), ReplicaUrls(serve, specs, replica_addresses)),
        limits=_limits(settings),
        tribunals=GuardedTribunals(TribunalClient(settings.tribunals, TRIBUNAL)),
        retrieval=GuardedRetrieval(RetrievalClient(RETRIEVAL)),
        embedder=embedder_id(settings),
        incoming=incoming_folder(settings.rag),
        item_quota=_item_quota(),
        metrics_sources=_all(_engine_metrics(specs, clients, herd), _keeper_metrics()),
    )


def _item_quota() -> ItemQuota:
    """The keeper's, in a service with an edge."""
    secret, url = own_secret(), os.environ.get(KEEPER_VARIABLE)
    return KeeperItemQuota(url, secret) if secret and url else NoItemQuota()


def _http(serve: tuple[str, int]) -> httpx.AsyncClient:
    """A client whose base URL is Serve's; where Serve listens everywhere, it does so on loopback too."""
    host, port = serve
    base = url("127.0.0.1" if host in ("", "0.0.0.0", "::") else host, port)  # noqa: S104
    return httpx.AsyncClient(base_url=base, trust_env=False, limits=httpx.Limits(max_connections=None))


def _limits(settings: Settings) -> Limits:
    bulk = settings.bulk
    return Limits(
        max_body=settings.gateway.max_body,
        connect_timeout_s=settings.edge.connect_timeout_s,
        idle_timeout_s=settings.edge.idle_timeout_s,
        bulk=BulkLimits(
            max_items=bulk.max_items,
            max_in_flight=bulk.max_in_flight or BULK_IN_FLIGHT,
            in_flight={} if bulk.max_in_flight else {spec.id: _in_flight(spec) for spec in settings.specs},
            max_body=bulk.max_body,
            priority=bulk.priority,
        ),
        max_upload=settings.rag.max_upload,
    )


def _in_flight(spec: ModelSpec) -> int:
    """Bulk items that fill all engines of a model, with those that wait there and those on their way."""
    return max(BULK_IN_FLIGHT, IN_FLIGHT_SHARE * spec.max_sequences * spec.autoscaling.max_replicas)


Source = Callable[[], Awaitable[str]]


def _all(*sources: Source) -> Source:
    """What several sources say; one that fails is left out."""

    async def read() -> str:
        texts = await asyncio.gather(*(source() for source in sources), return_exceptions=True)
        for failure in (text for text in texts if not isinstance(text, str)):
            log.warning("metrics are incomplete: %r", failure)
        return "".join(text for text in texts if isinstance(text, str))

    return read


def _keeper_metrics() -> Source:
    """What the keeper counts: requests at the edge, refusals, tokens."""
    secret, url = own_secret(), os.environ.get(KEEPER_VARIABLE)
    if not secret or not url:
        return no_metrics
    client = httpx.AsyncClient(base_url=url, headers={SECRET_HEADER: secret}, timeout=2, trust_env=False)

    async def read() -> str:
        return (await client.get("/metrics")).raise_for_status().text

    return read


def _engine_metrics(specs: tuple[ModelSpec, ...], clients: Mapping[str, ModelClient], herd: ServeHerd) -> Any:
    """The Prometheus text of every running replica, each series with its model and replica."""

    async def read() -> str:
        statuses = await herd.statuses()
        running = [spec.id for spec in specs if statuses[spec.id].replicas]
        texts = await asyncio.gather(*(clients[model].engine_metrics() for model in running), return_exceptions=True)
        found = {model: text for model, text in zip(running, texts, strict=True) if isinstance(text, list)}
        return merge_engine_metrics(found)

    return read
