"""The gateway application: builds the clients of the models, then the web app over them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import httpx
from fastapi import APIRouter
from starlette.types import ASGIApp

from app.access.estimate import Estimate
from app.access.guards import GuardedRetrieval, GuardedTribunals
from app.access.items import ItemQuota, KeeperItemQuota, NoItemQuota
from app.dead_peers import transport
from app.metrics import merge_engine_metrics
from app.middleware import CancelledOnce, log
from app.relay import Upstream
from app.replaceable_app import ReplaceableApp
from app.replica_urls import ReplicaUrls, url
from app.retrieval.resolved import embedder_id, incoming_folder
from app.serve_config import RETRIEVAL, TRIBUNAL
from app.services import BulkLimits, Limits, Services, no_metrics
from app.settings import Settings
from app.telemetry import Telemetry
from app.web import create_app
from deployments.config import ModelSpec
from deployments.herd import ServeHerd
from deployments.model_client import ModelClient
from deployments.model_clients import ModelClients
from deployments.principal import SECRET_HEADER
from deployments.request_log import start_log
from deployments.retrieval.client import RetrievalClient
from deployments.secret import KEEPER_VARIABLE, Door, own_secret
from deployments.serve_state import read_nodes, read_status, replica_addresses
from deployments.tracing import TRACES
from deployments.tribunal.client import TribunalClient
from deployments.wordless import keep_words_out

BULK_IN_FLIGHT = 256
IN_FLIGHT_SHARE = 2
"""Bulk items for each sequence of a model's engines: those in them, those that wait there, those on their way."""


class Gateway:
    """A Serve deployment; one replica is one process of the gateway."""

    def __init__(self, settings: str, serve_host: str, serve_port: int, failures: Mapping[str, str]) -> None:
        self._settings = settings
        start_log("gateway")
        keep_words_out()
        given = Settings.model_validate_json(settings)
        TRACES.start(given.traces, "corral-gateway", roots=own_secret() is None)
        failed = {spec.deployed_id: failures[spec.id] for spec in given.specs if spec.id in failures}
        self._kept = Kept((serve_host, serve_port), failed)
        self._app: ReplaceableApp | None = None

    async def __serve_build_asgi_app__(self) -> Any:
        self._app = ReplaceableApp(self._built())
        return self._app

    async def reconfigure(self, told: Mapping[str, str]) -> None:
        """Serve calls it at the start and after `corral apply`, with other settings. Requests under way stay."""
        if told["settings"] != self._settings and self._app:
            self._settings = told["settings"]
            self._app.app = self._built()

    def _built(self) -> ASGIApp:
        services = build_services(Settings.model_validate_json(self._settings), self._kept)
        app = create_app(services, [internal_router()], Door(own_secret()), self._kept.telemetry)
        app.add_middleware(CancelledOnce)
        return app


class Kept:
    """What one process of the gateway has whatever its settings become.

    serve: host and port that Serve listens on. failures: deployed id of what could not be deployed at the start -> why.
    """

    def __init__(self, serve: tuple[str, int], failures: Mapping[str, str] | None = None) -> None:
        self.serve, self._failures = serve, dict(failures or {})
        self.clients = ModelClients()
        self.telemetry = Telemetry()
        self.http = _http(serve)

    def failures(self, specs: Sequence[ModelSpec]) -> Mapping[str, str]:
        """Of these models; one that was replaced since then has another generation."""
        return {spec.id: self._failures[spec.deployed_id] for spec in specs if spec.deployed_id in self._failures}


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


def build_services(settings: Settings, kept: Kept) -> Services:
    """Clients of every model of the profile, and the limits."""
    specs = settings.specs
    herd = ServeHerd(specs, kept.failures(specs), read=read_status)
    tribunals, retrieval = TribunalClient(settings.tribunals, TRIBUNAL), RetrievalClient(RETRIEVAL)
    clients = kept.clients.of(specs)
    kept.telemetry.forget_models()
    chatting = {served: clients[served] for spec in specs if spec.task == "generate" for served in spec.served_ids}
    return Services(
        models=chatting,
        base_of={served: spec.id for spec in specs for served in spec.served_ids},
        herd=herd,
        upstream=Upstream(
            kept.http, ReplicaUrls(kept.serve, specs, replica_addresses), {spec.id: spec.route_prefix for spec in specs}
        ),
        limits=_limits(settings),
        tribunals=GuardedTribunals(tribunals),
        retrieval=GuardedRetrieval(retrieval),
        embedder=embedder_id(settings),
        incoming=incoming_folder(settings.rag),
        item_quota=_item_quota(),
        estimate=Estimate({served: spec.context_tokens for spec in specs for served in spec.served_ids}),
        metrics_sources=_all(
            _engine_metrics(specs, clients, herd), _keeper_metrics(), tribunals.metrics, retrieval.metrics
        ),
    )


def _item_quota() -> ItemQuota:
    """The keeper's, in a service with an edge."""
    secret, url = own_secret(), os.environ.get(KEEPER_VARIABLE)
    return KeeperItemQuota(url, secret) if secret and url else NoItemQuota()


def _http(serve: tuple[str, int]) -> httpx.AsyncClient:
    """A client whose base URL is Serve's; where Serve listens everywhere, it does so on loopback too."""
    host, port = serve
    base = url("127.0.0.1" if host in ("", "0.0.0.0", "::") else host, port)  # noqa: S104
    return httpx.AsyncClient(base_url=base, trust_env=False, transport=transport(httpx.Limits(max_connections=None)))


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


Source = Callable[[], Coroutine[Any, Any, str]]
SOURCE_TIMEOUT_S = 3
"""Less than the route waits for all of them."""


def _all(*sources: Source) -> Source:
    """What several sources say; one that fails, or takes too long, is left out."""

    async def read() -> str:
        timely = (asyncio.wait_for(source(), SOURCE_TIMEOUT_S) for source in sources)
        texts = await asyncio.gather(*timely, return_exceptions=True)
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
        found = {model: text for model, text in zip(running, texts, strict=True) if isinstance(text, dict)}
        return merge_engine_metrics(found)

    return read
