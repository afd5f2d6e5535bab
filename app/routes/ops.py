"""What operators and machines ask: alive, ready, metrics."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from app.middleware import log
from app.openapi import ERRORS, Responses
from app.services import Services
from app.telemetry import CONTENT_TYPE, Telemetry
from deployments.status import ModelState, ModelStatus

SOURCES_TIMEOUT_S = 5


class OpsRoutes:
    """Health of the process, readiness of the models, metrics of both."""

    def __init__(self, services: Services, telemetry: Telemetry) -> None:
        self.services, self.telemetry = services, telemetry

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Operations"])
        add = router.add_api_route
        shown: Responses = {**ERRORS, 503: {"description": "The same body: something does not answer now."}}
        text: Responses = {200: {"description": "Prometheus's format.", "content": {"text/plain": {}}}, **ERRORS}
        add("/health", self.health, summary="Whether the gateway lives")
        add("/ready", self.ready, summary="Whether every model answers", responses=shown)
        add("/ready/{model:path}", self.ready_model, summary="Whether one model answers", responses=shown)
        add("/metrics", self.metrics, summary="Metrics", responses=text)
        return router

    async def health(self) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def ready(self) -> JSONResponse:
        statuses = await self.services.herd.statuses()
        ready = bool(statuses) and all(is_ready(status) for status in statuses.values())
        models = {model: status.to_json() for model, status in statuses.items()}
        return JSONResponse({"ready": ready, "models": models}, 200 if ready else 503)

    async def ready_model(self, model: str) -> JSONResponse:
        status = await self.services.status(model)
        ready = is_ready(status)
        return JSONResponse({"ready": ready, **status.to_json()}, 200 if ready else 503)

    async def metrics(self) -> Response:
        """Never fails for want of a source: what cannot be had is left out and logged."""
        own = await asyncio.gather(self._note_models(), self._others(), return_exceptions=True)
        for failure in own:
            if isinstance(failure, BaseException):
                log.warning("metrics are incomplete: %r", failure)
        others = own[1] if isinstance(own[1], str) else ""
        return Response(self.telemetry.exposition() + others, media_type=CONTENT_TYPE)

    async def _note_models(self) -> None:
        async with asyncio.timeout(SOURCES_TIMEOUT_S):
            self.telemetry.models((await self.services.herd.statuses()).values())

    async def _others(self) -> str:
        async with asyncio.timeout(SOURCES_TIMEOUT_S):
            return await self.services.metrics_sources()


def is_ready(status: ModelStatus) -> bool:
    return status.state in (ModelState.READY, ModelState.IDLE)
