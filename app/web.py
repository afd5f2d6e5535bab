"""create_app: the gateway's routes, middleware and error shapes around injected Services."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from app.body import first_error
from app.errors import http_problem, problem_of
from app.middleware import Admitted, BoundBody, CancelOnDisconnect, LastResort, Observe, OwnDeadline, RequestId
from app.openapi import describe
from app.retrieval import openapi as documents
from app.retrieval.uploads import UPLOAD_PATH
from app.routes.bulk import BulkRoutes
from app.routes.generate import GenerateRoutes
from app.routes.openai import OpenAIRoutes
from app.routes.ops import OpsRoutes
from app.routes.page import PageRoutes
from app.routes.rag import RagRoutes
from app.routes.tribunal import TribunalRoutes
from app.services import Limits, Services
from app.telemetry import Telemetry
from app.tracing.gateway_span import Traced
from app.tribunal import openapi as tribunals
from deployments.errors import ServingError
from deployments.secret import Door
from rag.errors import RagError


def create_app(
    services: Services, more: Sequence[APIRouter] = (), door: Door | None = None, telemetry: Telemetry | None = None
) -> FastAPI:
    """The gateway. `more` are further routers, tried before the paths that are passed on to models.

    door: lets in who came through the edge; without one everybody. telemetry: counts on from an app before this one.
    """
    telemetry = telemetry or Telemetry()
    app = FastAPI(
        title="Corral",
        version=_version(),
        redoc_url=None,
        redirect_slashes=False,
        middleware=_middleware(services, telemetry, door or Door(None)),
        exception_handlers={
            ServingError: _serving_error,
            RagError: _serving_error,
            RequestValidationError: _validation_error,
            HTTPException: _http_error,
        },
    )
    own = [
        GenerateRoutes(services).router(),
        BulkRoutes(services, telemetry).router(),
        TribunalRoutes(services).router(),
        RagRoutes(services).router(),
        PageRoutes().router(),
    ]
    for router in [*own, *more, OpsRoutes(services, telemetry).router(), OpenAIRoutes(services).router()]:
        app.include_router(router)
    asked, answered = (*tribunals.ASKED, *documents.ASKED), (*tribunals.ANSWERED, *documents.ANSWERED)
    app.openapi = partial(describe, app, asked, answered)  # type: ignore[method-assign]
    return app


def _middleware(services: Services, telemetry: Telemetry, door: Door) -> list[Middleware]:
    limits = services.limits
    return [
        Middleware(RequestId),
        Middleware(Observe, telemetry),
        Middleware(Admitted, door),
        Middleware(Traced),
        Middleware(OwnDeadline),
        Middleware(CancelOnDisconnect),
        Middleware(BoundBody, limits.max_body, _by_path(limits), limits.body_timeout_s),
        Middleware(LastResort),
    ]


def _by_path(limits: Limits) -> dict[re.Pattern[str], int]:
    """Where a body may be longer than elsewhere."""
    return {re.compile("/bulk"): limits.bulk.max_body, UPLOAD_PATH: limits.max_upload}


async def _serving_error(_: Request, error: Exception) -> Response:
    return problem_of(error).response()


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    inside = [{**item, "loc": item["loc"][1:]} for item in error.errors()]  # without "query" or "path"
    return problem_of(first_error(inside)).response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    return http_problem(error.status_code, request.method, request.url.path, headers, error.detail).response()


def _version() -> str:
    try:
        return version("corral")
    except PackageNotFoundError:
        return "0"
