"""Words that are marked, in every place where a client can put one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, TypeAlias

import httpx

from tests.serve.herd import EMBEDDER, MAX_BODY, MAX_UPLOAD

CHAT, GENERATE, BULK, TRIBUNAL = "/v1/chat/completions", "/generate", "/bulk", "/v1/tribunal"
COLLECTION = "/v1/rag/collections/logged"
Sent: TypeAlias = tuple[str, dict[str, Any]]


class Marks:
    """Words of one run, each with the place where it is sent. All begin alike and are no part of any other text."""

    def __init__(self) -> None:
        self.prefix = f"zq{secrets.token_hex(8)}"
        self.path = f"path{secrets.token_hex(8)}"

    def __call__(self, place: str) -> str:
        return f"{self.prefix}{place}"

    @property
    def headers(self) -> dict[str, str]:
        """Wherever a header may hold one. An x-request-id that is sane is logged; this one is not sane."""
        key = f"corral-abcdefgh-{secrets.token_hex(24)}"
        return {
            "authorization": f"Bearer {self('bearer')}",
            "x-api-key": f"{self('apikey')} {key}",
            "cookie": f"a={self('cookie')}",
            "user-agent": self("agent"),
            "referer": f"http://x/{self('referer')}",
            "x-request-id": f"{self('id')} !",
            "traceparent": f"00-{self('trace')}-01",
            "tracestate": f"a={self('state')}",
            "baggage": f"a={self('baggage')}",
            "x-corral-principal": self("principal"),
            "x-corral-secret": self("secret"),
            "x-forwarded-for": self("from"),
            "x-session-id": self("session"),
            "x-mine": self("mine"),
        }


def wrong_and_right(mark: Marks) -> Iterator[Sent]:
    """Bodies by path: those that are answered, and those that are wrong in each of the ways that name what is wrong."""
    talk = [{"role": "user", "content": f"Hello {mark('content')}!"}]
    chat: dict[str, Any] = {"model": "pocket-1b", "messages": talk, "max_tokens": 4}
    calls = [{"id": mark("callid"), "type": "function", "function": {"name": mark("tool"), "arguments": mark("args")}}]
    tool = {"type": "function", "function": {"name": mark("fn"), "description": mark("desc"), "parameters": {}}}
    for more in (
        {},
        {"stream": True},
        {"stop": [mark("stop")]},
        {"user": mark("user")},
        {mark("field"): 1},
        {"seed": mark("type")},
        {"max_tokens": -1},
        {"temperature": mark("number")},
        {"model": mark("model")},
        {"messages": mark("messages")},
        {"messages": [{"role": mark("role"), "content": "x"}]},
        {"tools": [tool], "tool_choice": mark("choice")},
        {"messages": [*talk, {"role": "assistant", "tool_calls": calls}]},
        {"n": 1000},
        {"logit_bias": {mark("bias"): 1}},
        {"messages": [{"role": "user", "content": mark("long") * 4000}]},
        {"chat_template": mark("template")},
        {"messages": [{"role": "user", "content": [{"type": mark("part"), "text": mark("parttext")}]}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": f"http://127.0.0.1:9/{mark('image')}"}}],
                }
            ]
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": mark("schema"), "schema": {"type": mark("kind")}},
            }
        },
        {"structured_outputs": {"regex": f"({mark('regex')}"}},
        {"metadata": {mark("meta"): mark("metavalue")}},
    ):
        yield CHAT, {"json": {**chat, **more}}
    for path, field in (
        ("/v1/completions", "prompt"),
        ("/v1/responses", "input"),
        ("/v1/tokenize", "prompt"),
        ("/v1/embeddings", "input"),
        ("/v1/messages", "prompt"),
        (GENERATE, "prompt"),
    ):
        yield path, {"json": {"model": "pocket-1b", field: mark("input")}}
        yield (
            path,
            {"json": {"model": "pocket-1b", field: {mark("key"): mark("value")}, mark("unknown"): mark("value")}},
        )
    yield GENERATE, {"json": {"model": "pocket-1b", "prompt": mark("prompt"), "stream": True, "max_tokens": 4}}
    yield "/v1/embeddings", {"json": {"model": EMBEDDER, "input": [mark("embedded")]}}
    yield BULK, {"json": {"items": [{"model": "pocket-1b", "prompt": mark("item"), "max_tokens": 4}, mark("noitem")]}}
    yield TRIBUNAL, {"json": {"question": mark("question"), "config": {"strategy": "council", "rounds": 1}}}
    yield TRIBUNAL, {"json": {"question": mark("question"), "tribunal": mark("tribunal"), mark("field"): 1}}
    yield "/v1/rag/chat", {"json": {"question": mark("question"), "collection": "logged"}}
    yield (
        "/v1/rag/chat",
        {"json": {"question": mark("question"), "collection": mark("collection"), "session": mark("s")}},
    )
    yield "/v1/rag/search", {"json": {"query": mark("query"), "collection": "logged", "filters": {mark("filter"): 1}}}
    for path in (CHAT, GENERATE, BULK, TRIBUNAL, "/v1/rag/chat", "/v1/completions"):
        json_type = {"content-type": "application/json"}
        yield path, {"content": f'{{"model": "pocket-1b", "{mark("broken")}": '.encode(), "headers": json_type}
        yield path, {"content": mark("text").encode(), "headers": {"content-type": mark("contenttype")}}
        yield path, {"content": b'{"a": "' + mark("large").encode() + b"x" * MAX_BODY + b'"}', "headers": json_type}
        yield path, {"content": b'{"a": "\xff' + mark("bytes").encode() + b'"}', "headers": json_type}


def uploads(mark: Marks) -> Iterator[Sent]:
    text = f"# Notes\n\nThe {mark('document')} partition has a time limit of 48 hours.\n".encode()
    pdf, bad = b"%PDF-1.4 " + mark("pdf").encode(), b"PK\x03\x04" + mark("docx").encode()
    for name, content in (
        (f"{mark('file')}.md", text),
        (f"{mark('file')}.pdf", pdf),
        (f"{mark('file')}.docx", bad),
        (f"../{mark('file')}.exe", b"x"),
        ("large.txt", mark("upload").encode() * (MAX_UPLOAD // 8)),
    ):
        yield f"{COLLECTION}/documents", {"files": [("file", (name, content))]}
    yield f"{COLLECTION}/documents", {"files": [("file", ("a.md", text))], "data": {"metadata": mark("metadata")}}


def every_route(http: httpx.Client, mark: Marks) -> Iterator[tuple[str, str]]:
    """Method and path of whatever the API's own description has."""
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        for method in methods:
            yield method.upper(), "/".join(mark.path if part.startswith("{") else part for part in path.split("/"))
