"""Malformed requests of many kinds, as the bytes that go over the wire; the same seed gives the same ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

WORD = "Hi"
"""What every prompt says; nothing else in GOOD has these letters."""
MESSAGES = [{"role": "user", "content": WORD}]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/chat/completions/batch": {"messages": [MESSAGES], "max_tokens": 2},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 2},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/embeddings": {"input": "Hi"},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [1, 2]},
    "/generate": {"prompt": "Hi", "max_tokens": 2},
    "/bulk": {"items": [{"prompt": "Hi", "max_tokens": 2}]},
    "/v1/tribunal": {"question": "Hi", "max_tokens": 2},
    "/v1/rag/search": {"query": "Hi", "collection": "none"},
    "/v1/rag/chat": {"messages": MESSAGES, "collection": "none"},
}
FIELDS = (
    "n", "stop", "temperature", "top_p", "top_k", "logprobs", "top_logprobs", "logit_bias", "response_format",
    "tools",
    "tool_choice", "stream", "stream_options", "seed", "priority", "max_tokens", "max_completion_tokens",
    "min_tokens",
    "messages", "prompt", "input", "model", "chat_template", "chat_template_kwargs", "structured_outputs", "best_of",
    "prompt_logprobs", "allowed_token_ids", "bad_words", "truncate_prompt_tokens", "request_id", "user", "items",
    "text",
    "tokens", "question", "query", "collection", "members", "k", "previous_response_id", "echo", "suffix",
    "prompt_embeds",
)  # fmt: skip
JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 31, 1 << 63, 1 << 70, 1e308, -0.0, "", " ", "x", "\x00", "é" * 300, "../..", "{{7*7}}",
    "' OR 1=1 --", "<script>", "file:///etc/passwd", "http://169.254.169.254/", [], [[]], [None], [1, "a"],
    ["x"] * 70,
    {}, {"": {}}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "x",
    "schema": {"$ref": "#"}}},
    {"regex": "("}, {"grammar": "root ::= root"}, {"choice": []}, {"1": 200}, {"-1": 1}, [{"role": "user"}],
    [{"role": 5}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}}]}],
    [{"type": "function", "function": {"name": "f", "parameters": {"type": 5}}}], [[1, 2], [3]], [-1], [1 << 40],
)  # fmt: skip
PATHS = (
    "/", "/v1", "/v1/", "/v1/none", "/v1/models/none", "/v1/models/%00", "/v1/responses/x", "/v1/tribunal/none", "//",
    "/v1/rag/collections/..", "/v1/rag/collections/none/documents", "/v1/rag/sessions/none", "/ready/none", "/%zz",
    "/%",
    "/internal/replicas", "/%69nternal/x", "/models/x/v1/models", "/-/routes", "/static/../x", "/static/none", "/;/",
    "/v1/collective_rpc", "/v1/load_lora_adapter", "/health/x", "/metrics/x", "/openapi.json/x", "/v1/usage?since=x",
    "/v1/usage?by=x", "/v1/tribunal/x?after=-1", "/v1/models?" + "a" * 3000, "/" + "a/" * 2000, "/v1/\\..\\x",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "post", "FOO")
TYPES = ("application/json", "application/json; charset=utf-16", "text/plain", "multipart/form-data; boundary=x",
         "application/x-ndjson", "application/x-www-form-urlencoded", "", "a" * 500)  # fmt: skip
HEADERS = (
    "x-request-timeout: -1", "x-request-timeout: nan", "x-request-timeout: 1e999", "x-request-timeout: 1e-9",
    "x-corral-principal: {}", "x-corral-secret: x", "x-vllm-priority: -9", "x-request-id: " + "x" * 500,
    "accept: application/x-ndjson", "accept: text/event-stream", "accept-encoding: gzip;q=x",
    "cookie: " + "a=b;" * 400,
    "content-encoding: gzip", "traceparent: 00-x-x-x", "origin: null", "serve_multiplexed_model_id: x",
    "range: bytes=5-1",
    "connection: upgrade\r\nupgrade: websocket", "last-event-id: x", "x-data-parallel-rank: 9", "if-none-match: *",
)  # fmt: skip
RAW = (
    b"", b"\r\n\r\n", b"GET\r\n\r\n", b"GET /\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1", b"\x00" * 100,
    b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"POST /generate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /generate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
    b"POST /bulk HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
    b"GET / HTTP/1.1\r\nhost: x\r\nbad name: y\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nx: a\nb: c\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 500 + b"\r\n",
)  # fmt: skip


@dataclass(frozen=True)
class Malformed:
    """kind: a word for the report. heard: whether HTTP owes it an answer, and not just a closed connection."""

    kind: str
    data: bytes
    heard: bool = True


class Malformer:
    """Makes them for one service. key: without it most end at the edge.

    word: what every prompt says; one that is given is in junk, too.
    """

    def __init__(self, model: str, key: str = "", seed: int = 0, word: str = WORD) -> None:
        self._model, self._key, self._word, self._random = model, key, word, random.Random(seed)
        self._asked: dict[str, dict[str, Any]] = json.loads(json.dumps(GOOD).replace(WORD, word))
        more = () if word == WORD else (word, [word], {word: word}, [{"role": word, "content": word}])
        self._junk: tuple[Any, ...] = (*JUNK, *more)
        self._kinds: dict[str, Callable[[], Malformed]] = {
            "field": self._field, "json": self._json, "path": self._path, "header": self._header,
            "bytes": self._bytes,
            "type": self._type, "key": self._stranger,
        }  # fmt: skip

    def many(self, count: int) -> Iterator[Malformed]:
        kinds = list(self._kinds.values())
        return (kinds[number % len(kinds)]() for number in range(count))

    def request(self, method: str, path: str, body: bytes, *headers: str) -> bytes:
        """One request of HTTP/1.1, after which the connection ends."""
        key = [f"authorization: Bearer {self._key}"] if self._key else []
        lines = [
            f"{method} {path} HTTP/1.1",
            "host: x",
            "connection: close",
            f"content-length: {len(body)}",
            *key,
            *headers,
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body

    def _post(self, path: str, body: bytes, *headers: str) -> bytes:
        return self.request("POST", path, body, "content-type: application/json", *headers)

    def _good(self) -> tuple[str, dict[str, Any]]:
        path = self._random.choice(list(GOOD))
        return path, {"model": self._model, **self._asked[path]}

    def _field(self) -> Malformed:
        path, body = self._good()
        for _ in range(self._random.choice((1, 1, 2))):
            body[self._random.choice(FIELDS)] = self._random.choice(self._junk)
        if self._random.random() < 0.2:
            body.pop(self._random.choice(list(body)))
        return Malformed("field", self._post(path, json.dumps(body).encode()))

    def _json(self) -> Malformed:
        path, body = self._good()
        good, word = json.dumps(body).encode(), self._word.encode()
        cut = self._random.randrange(len(good))
        bodies = (
            good[:cut], good[:cut] + self._random.randbytes(4) + good[cut:], b"[" * 50_000, b'{"a":' * 5000,
            good + good,
            b"\xef\xbb\xbf" + good, good.decode().encode("utf-16"), good[:-1] + b', "model": "x"}', b"", b"null",
            b"[]",
            good.replace(word, b"\\ud800"), good.replace(word, b"\\u0000"), good.replace(b"2", b"9" * 5000),
            good.replace(b"2", b"NaN"), good.replace(b"2", b"1e400"), self._random.randbytes(200),
            b'"' + b"x" * 10_000,
        )  # fmt: skip
        return Malformed("json", self._post(path, self._random.choice(bodies)))

    def _path(self) -> Malformed:
        method, path = self._random.choice(METHODS), self._random.choice((*PATHS, *GOOD))
        return Malformed("path", self.request(method, path, self._random.choice((b"", b"{}", b"x" * 100))))

    def _header(self) -> Malformed:
        path, body = self._good()
        body[self._random.choice(FIELDS)] = self._random.choice(self._junk)
        return Malformed("header", self._post(path, json.dumps(body).encode(), self._random.choice(HEADERS)))

    def _bytes(self) -> Malformed:
        return Malformed("bytes", self._random.choice((*RAW, self._random.randbytes(300))), heard=False)

    def _type(self) -> Malformed:
        path = self._random.choice((*GOOD, "/v1/rag/collections/none/documents"))
        asked = json.dumps(self._asked.get(path, {})).encode()
        body = self._random.choice((b"--x\r\n\r\n", b"a=b", b"{}\n{}\n[", asked))
        return Malformed("type", self.request("POST", path, body, f"content-type: {self._random.choice(TYPES)}"))

    def _stranger(self) -> Malformed:
        path, body = self._good()
        wrong = self._random.choice(
            ("Basic eDp5", "Bearer", "Bearer  ", "Bearer corral-aaaaaaaa-" + "0" * 48, "x" * 3000)
        )
        stranger = Malformer(self._model, word=self._word)
        return Malformed("key", stranger._post(path, json.dumps(body | {"n": -1}).encode(), f"authorization: {wrong}"))
