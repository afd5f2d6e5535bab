"""/v1/rag: collections of documents, search in them, and answers from them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request
from starlette.responses import JSONResponse, Response

from app.body import read_object, validate
from app.errors import Problem, problem_of
from app.retrieval import openapi as described
from app.retrieval.uploads import received
from app.retrieval.wire import RagChatBody, RagSearchBody
from app.services import Services
from app.streaming import ALIVE, SSE, Streamed, event, with_last_word, with_silences
from deployments.errors import BadRequest, EngineFailed
from deployments.principal import CURRENT
from rag.errors import DocumentError, DocumentTooLarge, UnsupportedDocument

CHAT, SEARCH, COLLECTIONS, SESSIONS = "/v1/rag/chat", "/v1/rag/search", "/v1/rag/collections", "/v1/rag/sessions"
COLLECTION = f"{COLLECTIONS}/{{name}}"
DOCUMENTS = f"{COLLECTION}/documents"
DOCUMENT = f"{DOCUMENTS}/{{source:path}}"
SESSION = f"{SESSIONS}/{{session}}"
Name = Annotated[str, Path(max_length=128)]
Source = Annotated[str, Path(max_length=1024)]
After = Annotated[str | None, Query(max_length=1024, description="The last source of the page before.")]
Limit = Annotated[int, Query(ge=1, le=1000)]
ALLOWED = {
    CHAT: "POST", SEARCH: "POST", COLLECTIONS: "GET", COLLECTION: "GET, DELETE", DOCUMENTS: "GET, POST",
    DOCUMENT: "DELETE", SESSIONS: "GET", SESSION: "GET, DELETE",
}  # fmt: skip
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def owner_of(request: Request) -> str:
    """Whose sessions a request sees: those of its key, which is not kept; without one those of all without one.

    A key of this service stays the same when it is rotated.
    """
    if principal := CURRENT.get().key:
        return hashlib.sha256(f"key {principal}".encode()).hexdigest()
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return ""
    return hashlib.sha256(key.strip().encode(errors="surrogatepass")).hexdigest()


class RagRoutes:
    """Documents over HTTP; as virtual models collections are in virtual_chat.py."""

    def __init__(self, services: Services) -> None:
        self.services, self.retrieval = services, services.retrieval

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Documents"])
        add = router.add_api_route
        add(CHAT, self.chat, methods=["POST"], **described.CHAT)
        add(SEARCH, self.search, methods=["POST"], **described.SEARCH)
        add(COLLECTIONS, self.collections, methods=["GET"], **described.COLLECTIONS)
        add(COLLECTION, self.collection, methods=["GET"], **described.COLLECTION)
        add(COLLECTION, self.delete_collection, methods=["DELETE"], **described.DELETE_COLLECTION)
        add(DOCUMENTS, self.documents, methods=["GET"], **described.DOCUMENTS)
        add(DOCUMENTS, self.upload, methods=["POST"], **described.UPLOAD)
        add(DOCUMENT, self.delete_document, methods=["DELETE"], **described.DELETE_DOCUMENT)
        add(SESSIONS, self.sessions, methods=["GET"], **described.SESSIONS)
        add(SESSION, self.session, methods=["GET"], **described.SESSION)
        add(SESSION, self.delete_session, methods=["DELETE"], **described.DELETE_SESSION)
        for path, allowed in ALLOWED.items():
            others = [method for method in METHODS if method not in allowed]
            add(path, _not_allowed(allowed), methods=others, include_in_schema=False)
        return router

    async def chat(self, request: Request) -> Response:
        asked = validate(RagChatBody, await read_object(request))
        if asked.session and asked.messages:
            raise BadRequest("messages: a session has its own history; give one of the two.", "messages")
        ask = asked.to_ask(owner_of(request))
        if asked.stream:
            told = with_silences(self.retrieval.events(ask), self.services.limits.alive_s)
            return Streamed(with_last_word(_pieces(told), "an answer from documents", _error), SSE)
        return JSONResponse(await self.retrieval.answer(ask))

    async def search(self, request: Request) -> Response:
        asked = validate(RagSearchBody, await read_object(request))
        return JSONResponse(await self.retrieval.search(asked.query, asked.to_search()))

    async def collections(self) -> Response:
        return JSONResponse({"object": "list", "data": await self.retrieval.collections()})

    async def collection(self, name: Name) -> Response:
        return JSONResponse(await self.retrieval.collection(name))

    async def delete_collection(self, name: Name) -> Response:
        await self.retrieval.delete_collection(name)
        return Response(status_code=204)

    async def documents(self, name: Name, after: After = None, limit: Limit = 100) -> Response:
        return JSONResponse(await self.retrieval.documents(name, after, limit))

    async def upload(self, request: Request, name: Name) -> Response:
        async with received(request, self.services.incoming) as files:
            report = await self.retrieval.ingest(name, files.uploads) if files.uploads else _nothing(name)
        report["failed"] += len(files.refused)
        report["files"] += files.refused
        return _reported(report)

    async def delete_document(self, name: Name, source: Source) -> Response:
        await self.retrieval.delete_document(name, source)
        return Response(status_code=204)

    async def sessions(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": await self.retrieval.sessions(owner_of(request))})

    async def session(self, request: Request, session: Name) -> Response:
        return JSONResponse(await self.retrieval.session(owner_of(request), session))

    async def delete_session(self, request: Request, session: Name) -> Response:
        await self.retrieval.delete_session(owner_of(request), session)
        return Response(status_code=204)


async def _pieces(told: AsyncGenerator[dict[str, Any] | None, None]) -> AsyncGenerator[bytes, None]:
    complete = False
    async with aclosing(told):
        async for each in told:
            yield ALIVE if each is None else event(each)
            complete = complete or (each is not None and each["type"] == "result")
    if not complete:
        raise EngineFailed("The answer broke off.")


def _error(problem: Problem) -> bytes:
    return event({"type": "error", **problem.body()})


def _nothing(name: str) -> dict[str, Any]:
    counts = dict.fromkeys(("added", "replaced", "unchanged", "removed", "failed", "passages", "embedded"), 0)
    return {"collection": name, "version": None, **counts, "seconds": 0.0, "files": []}


def _reported(report: dict[str, Any]) -> Response:
    """The report; where nothing went in, it is an error that names the first file, with the report beside it."""
    failed = [file for file in report["files"] if file["outcome"] == "failed"]
    if not failed or len(failed) < len(report["files"]):
        return JSONResponse(report)
    first = failed[0]
    kinds = (DocumentTooLarge, UnsupportedDocument, DocumentError)
    kind = next((kind for kind in kinds if kind.reason == first.get("code")), DocumentError)
    problem = problem_of(kind(f"{first['source'][:256]}: {first['reason']}"))
    return JSONResponse({**problem.body(), "report": report}, problem.status)


def _not_allowed(allowed: str) -> Any:
    async def refuse() -> Response:
        raise HTTPException(405, headers={"allow": allowed})

    return refuse
