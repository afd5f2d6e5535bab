"""Uploads to a running service by `corral ingest --url`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.retrieval.send import send
from app.talk import RefusedError, UnreachableError
from rag.inputs import find_inputs
from tests.unit.conftest import Corral
from tests.unit.rag_ingest import write_pages


class Upstream(ThreadingHTTPServer):
    """A service that takes uploads of at most 4,000 bytes, and refuses files that hold the word bad."""

    uploads: list[dict[str, bytes]]
    metadata: list[str]


class _Handler(BaseHTTPRequestHandler):
    server: Upstream

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = b"".join(iter(self._piece, b"")) if "chunked" in self.headers.get("transfer-encoding", "") else b""
        body = body or self.rfile.read(int(self.headers.get("content-length") or 0))
        if len(body) > 4000:
            return self._answer(413, {"error": {"message": "The body is too large."}})
        files, fields = _parts(body, self.headers["content-type"])
        self.server.uploads.append(files)
        self.server.metadata += fields.values()
        return self._answer(*_reply(self.path, files))

    def _piece(self) -> bytes:
        piece = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return piece

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _parts(body: bytes, kind: str) -> tuple[dict[str, bytes], dict[str, str]]:
    """Files by name, and fields, of a form."""
    form = message_from_bytes(b"content-type: " + kind.encode() + b"\r\n\r\n" + body)
    files, fields = dict[str, bytes](), dict[str, str]()
    for part in form.walk():
        content = part.get_payload(decode=True)
        if not isinstance(content, bytes):
            continue
        if name := part.get_filename():
            files[name] = content
        else:
            fields["metadata"] = content.decode()
    return files, fields


def _reply(path: str, files: dict[str, bytes]) -> tuple[int, dict[str, Any]]:
    outcomes = [
        {"source": name, "outcome": "failed", "passages": 0, "reason": "is bad", "code": "unreadable_document"}
        if b"bad" in content
        else {"source": name, "outcome": "added", "passages": 2}
        for name, content in files.items()
    ]
    added = sum(each["outcome"] == "added" for each in outcomes)
    report = {
        "collection": path.split("/")[4], "version": 1 if added else None, "added": added, "replaced": 0, "removed": 0,
        "unchanged": 0, "failed": len(outcomes) - added, "passages": 2 * added, "embedded": 2 * added, "seconds": 0.5,
        "files": outcomes,
    }  # fmt: skip
    return (200, report) if added else (422, {"error": {"message": "nothing went in"}, "report": report})


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream(("127.0.0.1", 0), _Handler)
    server.uploads, server.metadata = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_go_through_a_running_service(tmp_path: Path, corral: Corral, upstream: Upstream) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(20):
        (docs / f"{number:02}.md").write_text(f"File {number}. " * 20)
    (docs / "07.md").write_text("bad")
    (docs / "large.md").write_text("x" * 5000)
    (docs / "lost.md").symlink_to("nowhere")
    url = f"http://127.0.0.1:{upstream.server_port}/v1"
    code, out, _ = corral(f"ingest {docs} missing -c hand --url {url} --meta year=2026 --json")
    report = json.loads(out)
    assert (code, report["added"], report["failed"], report["version"]) == (11, 19, 4, 1)
    failed = {file["source"]: file["code"] for file in report["files"] if file["outcome"] == "failed"}
    assert failed == {
        "docs/07.md": "unreadable_document", "docs/large.md": "document_too_large",
        "docs/lost.md": "unreadable_document", "missing": "unreadable_document",
    }  # fmt: skip
    sent = [name for upload in upstream.uploads for name in upload]
    assert sorted(sent) == [f"docs/{number:02}.md" for number in range(20)]
    assert upstream.uploads[0]["docs/00.md"] == b"File 0. " * 20
    assert {json.loads(each)["year"] for each in upstream.metadata} == {2026}
    assert report["passages"] == 38


def client_of(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(base_url="http://corral", transport=httpx.MockTransport(answer))


@pytest.mark.parametrize(
    ("status", "error"), [(401, RefusedError), (409, RefusedError), (503, UnreachableError), (None, UnreachableError)]
)
def test_a_service_that_refuses_is_quoted(tmp_path: Path, status: int | None, error: type[Exception]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if status is None:
            raise httpx.ConnectError("refused")
        return httpx.Response(status, json={"error": {"message": "not now"}})

    inputs = find_inputs(write_pages(tmp_path, 1), (".md",))
    with pytest.raises(error, match="refused" if status is None else "not now"):
        send(client_of(answer), "c", inputs, {})


def test_another_service_is_told_from_corral(tmp_path: Path) -> None:
    inputs = find_inputs(write_pages(tmp_path, 1), (".md",))
    page = client_of(lambda request: httpx.Response(200, text="<html>Sign in"))
    with pytest.raises(UnreachableError, match=r"http://corral answers, but not as a Corral service does; check --url"):
        send(page, "c", inputs, {})


def test_a_warning_of_the_service_is_handed_on(tmp_path: Path) -> None:
    inputs = find_inputs(write_pages(tmp_path, 1), (".md",))
    _, report = _reply("/v1/rag/collections/c/documents", {"page000.md": b"text"})
    told = client_of(lambda request: httpx.Response(200, json={**report, "warning": "damaged"}))
    assert send(told, "c", inputs, {})["warning"] == "damaged"
