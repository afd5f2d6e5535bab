"""The table of app/errors.py: every error has a status, OpenAI's shape and no internals."""

from __future__ import annotations

import pickle

import pytest

from app.errors import (
    TABLE,
    UNEXPECTED,
    BodyTooSlow,
    NoSuchPath,
    NotFromEdge,
    http_problem,
    problem_of,
)
from deployments import errors
from rag import errors as rag

CASES = [
    (errors.BadRequest("no", "seed"), 400, "invalid_request_error", "seed", "invalid_request"),
    (errors.PromptTooLong("long", "messages"), 400, "invalid_request_error", "messages", "context_length_exceeded"),
    (NotFromEdge(), 401, "invalid_request_error", None, "not_from_edge"),
    (errors.Forbidden("no", "model"), 403, "invalid_request_error", "model", "not_allowed"),
    (errors.OverQuota("often", 9, "quota_requests"), 429, "rate_limit_error", None, "quota_requests"),
    (errors.UnknownModel("x", ("a", "b")), 404, "invalid_request_error", "model", "model_not_found"),
    (errors.UnknownRun("tri-1"), 404, "invalid_request_error", None, "run_not_found"),
    (NoSuchPath("where"), 404, "invalid_request_error", None, "not_found"),
    (BodyTooSlow("slow", "body"), 408, "invalid_request_error", "body", "body_timeout"),
    (errors.Cancelled("stopped"), 409, "invalid_request_error", None, "cancelled"),
    (errors.NotReady("away", "config.chair"), 409, "invalid_request_error", "config.chair", "not_ready"),
    (errors.BodyTooLarge("big", "body"), 413, "invalid_request_error", "body", "body_too_large"),
    (
        errors.WrongContentType("xml", "content-type"),
        415,
        "invalid_request_error",
        "content-type",
        "unsupported_media_type",
    ),
    (errors.Overloaded("full", 7), 429, "rate_limit_error", None, "queue_full"),
    (errors.EngineFailed("died"), 502, "server_error", None, "engine_failed"),
    (errors.Unavailable("gone", "failed"), 503, "server_error", None, "model_unavailable"),
    (errors.NoQuorum("two are away"), 503, "server_error", None, "no_quorum"),
    (errors.DeadlineExceeded("late"), 504, "server_error", None, "deadline_exceeded"),
    (rag.BadName("no name", "source"), 400, "invalid_request_error", "source", "invalid_name"),
    (rag.BadFilter("no filter", "filters.page"), 400, "invalid_request_error", "filters.page", "invalid_filter"),
    (rag.DocumentError("a.md: garbage"), 400, "invalid_request_error", None, "unreadable_document"),
    (rag.UnreadableDocument("a.pdf: encrypted"), 400, "invalid_request_error", None, "unreadable_document"),
    (rag.DocumentTooLarge("a.md: big"), 413, "invalid_request_error", None, "document_too_large"),
    (rag.UnsupportedDocument("a.exe"), 415, "invalid_request_error", None, "unsupported_document"),
    (rag.UnknownCollection("x", ("a",)), 404, "invalid_request_error", "collection", "collection_not_found"),
    (rag.UnknownDocument("a.md", "x"), 404, "invalid_request_error", None, "document_not_found"),
    (rag.UnknownSession("s-1"), 404, "invalid_request_error", "session", "session_not_found"),
    (rag.CollectionBusy("held"), 409, "invalid_request_error", None, "collection_busy"),
    (rag.IngestStopped("stopped"), 409, "invalid_request_error", None, "ingest_stopped"),
    (rag.EmbeddingMismatch("another model"), 409, "invalid_request_error", None, "embedding_mismatch"),
    (rag.DamagedIndex("torn"), 500, "server_error", None, "damaged_index"),
    (rag.EmbeddingUnavailable("no weights"), 503, "server_error", None, "embedding_unavailable"),
    (rag.ReaderUnavailable("does not start"), 503, "server_error", None, "reader_unavailable"),
    (rag.OutOfSpace("full"), 507, "server_error", None, "out_of_space"),
]


@pytest.mark.parametrize(("error", "status", "kind", "param", "code"), CASES, ids=lambda value: type(value).__name__)
def test_every_error_has_its_status_and_body(
    error: errors.ServingError | rag.RagError, status: int, kind: str, param: str | None, code: str
) -> None:
    problem = problem_of(pickle.loads(pickle.dumps(error)))
    assert problem.status == status
    assert problem.body() == {"error": {"message": error.message, "type": kind, "param": param, "code": code}}


def test_the_cases_cover_the_table() -> None:
    assert {type(error) for error, *_ in CASES} >= set(TABLE)


def test_unknown_model_names_the_known_ones() -> None:
    assert "a, b" in problem_of(errors.UnknownModel("x", ("a", "b"))).message


def test_overloaded_says_when_to_come_back() -> None:
    assert problem_of(errors.Overloaded("full", 7)).headers == {"retry-after": "7"}


@pytest.mark.parametrize(
    "error", [KeyError("secret"), errors.ServingError("secret"), rag.RagError("secret"), RecursionError()]
)
def test_what_is_not_in_the_table_shows_nothing_of_itself(error: Exception) -> None:
    assert problem_of(error) is UNEXPECTED
    assert "secret" not in str(UNEXPECTED.body())


def test_the_router_s_own_refusals() -> None:
    assert http_problem(404, "GET", "/x").code == "not_found"
    refused = http_problem(405, "PUT", "/generate", {"allow": "POST"})
    assert (refused.status, refused.code, refused.headers) == (405, "method_not_allowed", {"allow": "POST"})
    assert "POST" in refused.message
    assert http_problem(400, "POST", "/x", detail="no form").message == "no form"
