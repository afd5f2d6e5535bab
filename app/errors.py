"""The one table: what went wrong -> HTTP status and OpenAI's error body.

ServingError                deployments/errors.py: what can go wrong behind any door
 +- NotFromEdge           asked at a port that is the service's own
 +- HttpError             what only an HTTP request can get wrong
     +- NoSuchPath          404, also for a response id that no model knows
     +- BodyTooSlow         the body did not arrive in time
RagError                    rag/errors.py: what can go wrong with documents and indexes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

from deployments.errors import (
    BadRequest,
    BodyTooLarge,
    Cancelled,
    DeadlineExceeded,
    EngineFailed,
    Forbidden,
    NotReady,
    Overloaded,
    ServingError,
    Unavailable,
    UnknownModel,
    UnknownRun,
    WrongContentType,
)
from deployments.secret import NOT_FROM_EDGE
from rag.errors import (
    BadFilter,
    BadName,
    CollectionBusy,
    DamagedIndex,
    DocumentError,
    DocumentTooLarge,
    EmbeddingMismatch,
    EmbeddingUnavailable,
    IngestStopped,
    OutOfSpace,
    RagError,
    ReaderUnavailable,
    UnknownCollection,
    UnknownDocument,
    UnknownSession,
    UnsupportedDocument,
)


class NotFromEdge(ServingError):
    reason = "not_from_edge"

    def __init__(self, message: str = NOT_FROM_EDGE) -> None:
        super().__init__(message)


class HttpError(ServingError):
    """Refused before any model was asked; `param` names the part of the request."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.param = param


class NoSuchPath(HttpError):
    reason = "not_found"


class BodyTooSlow(HttpError):
    reason = "body_timeout"


INVALID, LIMITED, SERVER = "invalid_request_error", "rate_limit_error", "server_error"

Known = ServingError | RagError
TABLE: Mapping[type[Known], tuple[int, str]] = {
    BadRequest: (400, INVALID),
    NotFromEdge: (401, INVALID),
    Forbidden: (403, INVALID),
    UnknownModel: (404, INVALID),
    UnknownRun: (404, INVALID),
    NoSuchPath: (404, INVALID),
    BodyTooSlow: (408, INVALID),
    Cancelled: (409, INVALID),
    NotReady: (409, INVALID),
    BodyTooLarge: (413, INVALID),
    WrongContentType: (415, INVALID),
    Overloaded: (429, LIMITED),
    EngineFailed: (502, SERVER),
    Unavailable: (503, SERVER),
    DeadlineExceeded: (504, SERVER),
    BadName: (400, INVALID),
    BadFilter: (400, INVALID),
    DocumentError: (400, INVALID),
    UnknownCollection: (404, INVALID),
    UnknownDocument: (404, INVALID),
    UnknownSession: (404, INVALID),
    CollectionBusy: (409, INVALID),
    IngestStopped: (409, INVALID),
    EmbeddingMismatch: (409, INVALID),
    DocumentTooLarge: (413, INVALID),
    UnsupportedDocument: (415, INVALID),
    DamagedIndex: (500, SERVER),
    EmbeddingUnavailable: (503, SERVER),
    ReaderUnavailable: (503, SERVER),
    OutOfSpace: (507, SERVER),
}
"""Error -> (status, OpenAI type); the nearest base class counts. What is not here is a 500."""


@dataclass(frozen=True)
class Problem:
    """An error as HTTP shows it."""

    status: int
    message: str
    type: str
    code: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        detail = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": detail}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, dict(self.headers))


UNEXPECTED = Problem(500, "The server failed on this request; its log has the reason.", SERVER, "internal_error")


def problem_of(error: BaseException) -> Problem:
    """The problem to show for `error`; nothing of an unexpected one is shown."""
    for cls in type(error).__mro__:
        if cls in TABLE and isinstance(error, Known):
            status, kind = TABLE[cls]
            return Problem(status, error.message, kind, error.reason, _param(error), _headers(error))
    return UNEXPECTED


def http_problem(
    status: int, method: str, path: str, headers: Mapping[str, str] | None = None, detail: object = None
) -> Problem:
    """The problem for what the framework itself refuses: above all an unknown path or method."""
    if status == 404:
        return problem_of(NoSuchPath(f"No such path: {method} {path[:128]!r}. GET /openapi.json lists what there is."))
    if status == 405:
        allowed = (headers or {}).get("allow", "another method")
        message = f"{method} is not allowed on {path[:128]!r}; use {allowed}."
        return Problem(405, message, INVALID, "method_not_allowed", headers=dict(headers or {}))
    return Problem(status, str(detail or f"HTTP {status}")[:256], INVALID if status < 500 else SERVER, "http_error")


def _param(error: Known) -> str | None:
    if isinstance(error, UnknownModel):
        return "model"
    if isinstance(error, UnknownCollection):
        return "collection"
    if isinstance(error, UnknownSession):
        return "session"
    named = BadRequest | Forbidden | NotReady | HttpError | BadName | BadFilter
    return error.param if isinstance(error, named) else None


def _headers(error: Known) -> dict[str, str]:
    if isinstance(error, Overloaded):
        return {"retry-after": str(error.retry_after_s)}
    if isinstance(error, BodyTooLarge | BodyTooSlow):
        return {"connection": "close"}  # the rest of the body is not read
    return {}
