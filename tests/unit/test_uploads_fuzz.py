"""Multipart uploads from anybody: files that are where they are said to be, or a 4xx; nothing is left behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.services import Limits
from deployments.retrieval.service import NoRetrieval, Upload
from rag.errors import BadName
from rag.passages import Scalar, source_name
from tests.unit.asgi import client_of, gateway, problem
from tests.unit.fakes import FakeModel
from tests.unit.mutations import SENDABLE, VALUES, damaged

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Starlette leaves the files of a form that breaks off to the garbage collector."""
FUZZED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PATH = "/v1/rag/collections/handbook/documents"
COUNTS = dict.fromkeys(("added", "replaced", "unchanged", "removed", "failed", "passages", "embedded"), 0)


class Taking(NoRetrieval):
    """Documents' service that reads what it is given, and keeps it."""

    def __init__(self) -> None:
        self.taken: list[tuple[Upload, bytes]] = []

    async def ingest(self, name: str, uploads: Sequence[Upload]) -> dict[str, Any]:
        self.taken = [(upload, Path(upload.path).read_bytes()) for upload in uploads]
        files = [{"source": upload.source, "outcome": "added", "passages": 1} for upload in uploads]
        return {"collection": name, "version": 1, **COUNTS, "added": len(files), "seconds": 0.0, "files": files}


class Desk:
    def __init__(self, folder: Path) -> None:
        self.incoming, self.retrieval = folder / "incoming", Taking()
        self.app: FastAPI = gateway(
            FakeModel(), retrieval=self.retrieval, incoming=self.incoming, limits=Limits(max_upload=1 << 20)
        )

    async def post(self, body: bytes, kind: str) -> httpx.Response:
        """What is answered, which is as it has to be, whatever was sent."""
        self.retrieval.taken = []
        async with client_of(self.app) as client:
            response = await client.post(PATH, content=body, headers=[(b"content-type", kind.encode())])
        assert response.status_code in (200, 400, 415), response.text
        if response.status_code != 200 and "report" not in response.json():
            problem(response)
        for upload, _ in self.retrieval.taken:
            assert source_name(upload.source) == upload.source
            assert Path(upload.path).parent.parent == self.incoming
            assert all(isinstance(value, Scalar) for value in upload.metadata.values())
            json.dumps([upload.source, dict(upload.metadata)], ensure_ascii=False, allow_nan=False).encode()
        assert not self.incoming.exists() or list(self.incoming.iterdir()) == []
        return response


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def form(*parts: tuple[bytes, bytes]) -> bytes:
    """A body of parts, each its header's parameters and its content, between lines of --x."""
    told = [b"--x\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % part for part in parts]
    return b"".join([*told, b"--x--\r\n"])


NAMES = st.sampled_from([b"file", b"metadata", b"other", b"\\ud800", b"+2AA-", b"", b"\xff"]) | st.binary(max_size=6)
FILES = st.sampled_from(
    [b"a.md", b"../a", b"~", b"/etc/x", b"a/\\ud800.md", b".", b"a." + b"b" * 300, b"\xf0\x9f\xa6\x99.md"]
)
KINDS = ["multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary=", "text/plain",
         "multipart/form-data; boundary=x; boundary=y", "Multipart/Form-Data ; BOUNDARY=\"x\"",
         "multipart/form-data; boundary=\xe9"]  # fmt: skip
CHARSETS = ["utf-8", "unicode_escape", "raw_unicode_escape", "utf-7", "utf-16", "idna", "punycode", "base64", "rot13",
            "undefined", "mbcs", "x" * 300, "\0", "", "../x"]  # fmt: skip
TYPES = st.sampled_from(KINDS) | st.sampled_from(CHARSETS).map("multipart/form-data; boundary=x; charset={}".format)
PARTS = st.tuples(
    st.builds(b'name="%b"'.__mod__, NAMES)
    | st.builds(lambda name, file: b'name="%b"; filename="%b"' % (name, file), NAMES, FILES | st.binary(max_size=8)),
    st.binary(max_size=20) | VALUES.map(lambda value: json.dumps(value).encode()),
)
WHOLE = form((b'name="file"; filename="a.md"', b"# A\r\n"), (b'name="metadata"', b'{"year": 2026}'))


@FUZZED
@given(body=st.lists(PARTS, max_size=3).map(lambda parts: form(*parts)), kind=TYPES)
@example(form((b'name="\\ud800"', b"")), "multipart/form-data; boundary=x; charset=unicode_escape")
@example(form((b'name="file"; filename="\\ud800.md"', b"")), "multipart/form-data; boundary=x; charset=unicode_escape")
async def test_any_form_is_taken_or_refused(desk: Desk, body: bytes, kind: str) -> None:
    await desk.post(body, kind)


@FUZZED
@given(damaged(WHOLE) | st.binary(max_size=60))
async def test_a_damaged_form_is_taken_or_refused(desk: Desk, body: bytes) -> None:
    await desk.post(body, KINDS[0])


@FUZZED
@given(st.dictionaries(st.text(max_size=8), SENDABLE, max_size=4) | VALUES)
async def test_metadata_is_plain_values_as_they_were_sent_or_refused(desk: Desk, metadata: Any) -> None:
    body = form((b'name="file"; filename="a.md"', b""), (b'name="metadata"', json.dumps(metadata).encode()))
    response = await desk.post(body, KINDS[0])
    if response.status_code == 200:
        assert desk.retrieval.taken[0][0].metadata == metadata
    else:
        assert problem(response)["param"] == "metadata"


SENT = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters='"\\;%'), min_size=1, max_size=12)


@FUZZED
@given(st.lists(st.tuples(SENT | st.sampled_from(["a/b.md", "../a", "two words.md"]), st.binary(max_size=40)),
                min_size=1, max_size=3))  # fmt: skip
async def test_what_clients_send_arrives(desk: Desk, files: list[tuple[str, bytes]]) -> None:
    request = httpx.Request("POST", "http://gateway", files=[("file", file) for file in files])
    response = await desk.post(request.read(), request.headers["content-type"])
    arrived = [(upload.source, content) for upload, content in desk.retrieval.taken]
    assert arrived == [(source_name(name), content) for name, content in files if is_source(name)]
    assert (response.status_code == 200) == bool(arrived)


def is_source(name: str) -> bool:
    try:
        source_name(name)
    except BadName:
        return False
    return True
