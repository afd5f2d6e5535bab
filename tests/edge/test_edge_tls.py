"""The address with TLS: who trusts its certificate is answered as without, by HTTP/1.1 and HTTP/2, and nobody else."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.access.certificate import Certificate, kept_or_made
from app.edge import Edge, EdgeSpec
from tests.edge.backend import Backend
from tests.edge.conftest import MakeSpec

CHAT = "/v1/chat/completions"
BODY = {"model": "m-a"}
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""How a client's first message begins."""


@pytest.fixture
def made(tmp_path: Path) -> Certificate:
    return kept_or_made(tmp_path / "its own folder", [], [], datetime.now(UTC))


@pytest.fixture
def spec(make_spec: MakeSpec, made: Certificate, request: pytest.FixtureRequest) -> EdgeSpec:
    return make_spec(tls_cert=made.tls_path, **getattr(request, "param", {}))


@pytest.fixture
def trusting(made: Certificate) -> ssl.SSLContext:
    """Of a client that knows this one certificate and no authority."""
    return ssl.create_default_context(cafile=made.certificate_path)


@pytest.fixture
async def client(spec: EdgeSpec, edge: Edge, trusting: ssl.SSLContext) -> AsyncIterator[httpx.AsyncClient]:
    url = f"https://{spec.host}:{spec.port}"
    async with httpx.AsyncClient(base_url=url, verify=trusting, trust_env=False, timeout=10) as client:
        yield client


@dataclass(frozen=True)
class Wire:
    """A connection, byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def tls(self) -> ssl.SSLObject:
        found = self.writer.get_extra_info("ssl_object")
        assert isinstance(found, ssl.SSLObject)
        return found


@asynccontextmanager
async def connected(spec: EdgeSpec, **how: Any) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.wait_for(asyncio.open_connection(spec.host, spec.port, **how), 10)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


async def test_one_that_trusts_the_certificate_alone_is_answered(
    client: httpx.AsyncClient, spec: EdgeSpec, serve: Backend
) -> None:
    for host in ("127.0.0.1", "localhost"):
        response = await client.post(f"https://{host}:{spec.port}{CHAT}", json=BODY)
        assert (response.status_code, response.json()["from"]) == (200, "serve")
    assert [each.all("x-forwarded-proto") for each in serve.seen] == [["https"]] * 2
    assert "strict-transport-security" not in response.headers


async def test_one_that_does_not_trust_it_ends_the_handshake(spec: EdgeSpec, edge: Edge, serve: Backend) -> None:
    async with httpx.AsyncClient(verify=ssl.create_default_context(), trust_env=False) as stranger:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.post(f"https://localhost:{spec.port}{CHAT}", json=BODY)
    assert serve.seen == []


async def test_it_is_not_taken_for_another_host(spec: EdgeSpec, edge: Edge, trusting: ssl.SSLContext) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        async with connected(spec, ssl=trusting, server_hostname="elsewhere.example.org"):
            pass


async def test_without_tls_there_is_no_answer(spec: EdgeSpec, edge: Edge, serve: Backend) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as plain:
        with pytest.raises(httpx.TransportError):
            await plain.post(f"http://localhost:{spec.port}{CHAT}", json=BODY)
    async with connected(spec) as wire:
        wire.writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"HTTP/" not in await asyncio.wait_for(wire.reader.read(), 5)
    assert serve.seen == []


async def test_only_tls_1_2_and_newer(spec: EdgeSpec, edge: Edge, trusting: ssl.SSLContext) -> None:
    async with connected(spec, ssl=trusting) as wire:
        assert wire.tls.version() == "TLSv1.3"
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    async with connected(spec, ssl=trusting) as wire:
        assert wire.tls.version() == "TLSv1.2"
    trusting.set_ciphers("DEFAULT:@SECLEVEL=0")  # else this very client would not try
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        trusting.minimum_version = trusting.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="TLSV1_ALERT_PROTOCOL_VERSION"):
        async with connected(spec, ssl=trusting):
            pass


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), ([], None)], ids=["2", "1", "-"]
)
async def test_http_2_for_who_offers_it(
    spec: EdgeSpec, edge: Edge, trusting: ssl.SSLContext, offered: list[str], chosen: str | None
) -> None:
    if offered:
        trusting.set_alpn_protocols(offered)
    async with connected(spec, ssl=trusting) as wire:
        assert wire.tls.selected_alpn_protocol() == chosen


async def test_a_stream_comes_piece_by_piece(client: httpx.AsyncClient, serve: Backend) -> None:
    async with client.stream("POST", f"{CHAT}?stream=1", json=BODY) as response:
        events = response.aiter_text()
        for number in range(5):
            serve.more.put_nowait(str(number))  # the backend sends nothing more until the client has this one
            assert await asyncio.wait_for(anext(events), 5) == f"data: {number}\n\n"
        serve.more.put_nowait("end")
        assert [event async for event in events] == []


async def test_one_that_never_ends_its_handshake_is_in_nobodys_way(
    client: httpx.AsyncClient, edge: Edge, spec: EdgeSpec
) -> None:
    async with connected(spec) as silent, connected(spec) as slow:
        slow.writer.write(HELLO)
        for _ in range(3):
            assert (await client.post(CHAT, json=BODY)).status_code == 200
        assert await edge.requests() == 0
        assert not silent.reader.at_eof()
        assert not slow.reader.at_eof()


@pytest.mark.parametrize("spec", [{"idle_timeout_s": 0.3}], indirect=True)
@pytest.mark.parametrize("sent", [b"", HELLO], ids=["nothing", "half"])
async def test_a_handshake_that_stands_still_is_ended(spec: EdgeSpec, edge: Edge, sent: bytes) -> None:
    async with connected(spec) as wire:
        wire.writer.write(sent)
        assert await asyncio.wait_for(wire.reader.read(), 5) == b""


DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
FRAME = 16_384
POST, HTTPS, OK = b"\x83", b"\x87", b"\x88"
"""As HPACK's table has :method, :scheme and :status 200."""


@dataclass(frozen=True)
class Http2:
    """As much of it as one request needs; its body is within the 65535 bytes that need no leave."""

    wire: Wire

    def send(self, path: str, body: bytes, length: int | None = None) -> None:
        """In one piece; a longer `length` than the body's promises more."""
        length = len(body) if length is None else length
        fields = ((":path", path), (":authority", "localhost"), ("content-length", str(length)))
        frames = [_frame(SETTINGS, 0, b"", stream=0)]
        frames.append(_frame(HEADERS, END_HEADERS, POST + HTTPS + b"".join(_field(*each) for each in fields)))
        for start in range(0, len(body), FRAME):
            last = start + FRAME >= length
            frames.append(_frame(DATA, END_STREAM if last else 0, body[start : start + FRAME]))
        self.wire.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"".join(frames))

    async def read(self, size: int) -> tuple[bytes, bytes]:
        """The head, if it was not read yet, and so much of the body."""
        head = body = b""
        while len(body) < size:
            kind, payload = await asyncio.wait_for(self._frame(), 5)
            head, body = head + payload * (kind == HEADERS), body + payload * (kind == DATA)
        return head, body

    async def _frame(self) -> tuple[int, bytes]:
        start = await self.wire.reader.readexactly(9)
        return start[3], await self.wire.reader.readexactly(int.from_bytes(start[:3], "big"))


def _frame(kind: int, flags: int, payload: bytes, stream: int = 1) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _field(name: str, value: str) -> bytes:
    """Literal, not to be indexed."""
    return b"\0" + b"".join(bytes([len(each)]) + each.encode() for each in (name, value))


@pytest.fixture
async def http2(spec: EdgeSpec, edge: Edge, trusting: ssl.SSLContext) -> AsyncIterator[Http2]:
    trusting.set_alpn_protocols(["h2"])
    async with connected(spec, ssl=trusting) as wire:
        yield Http2(wire)


async def test_http_2_picks_the_model_by_the_end_of_a_body_of_many_frames(http2: Http2, serve: Backend) -> None:
    body = json.dumps({"filler": "x" * 60_000, "model": "m-a"}).encode()
    http2.send(CHAT, body)
    answer = json.dumps({"from": "serve", "path": f"/models/m-a{CHAT}", "bytes": len(body)}).encode()
    head, got = await http2.read(len(answer))
    assert (head[:1], got) == (OK, answer)
    assert serve.seen[0].body == body


async def test_http_2_streams_piece_by_piece(http2: Http2, serve: Backend) -> None:
    http2.send(f"{CHAT}?stream=1", json.dumps(BODY).encode())
    for number in range(5):
        serve.more.put_nowait(str(number))
        event = f"data: {number}\n\n".encode()
        assert (await http2.read(len(event)))[1] == event
    serve.more.put_nowait("end")


@pytest.mark.parametrize("spec", [{"request_timeout_s": 0.5}], indirect=True)
@pytest.mark.parametrize("length", [2_000_000_000, 4_294_967_297, 9_000_000_000_000])
@pytest.mark.parametrize("begun", [b"", b"{"], ids=["no body yet", "a body that has begun"])
async def test_http_2_oversized_length_is_refused_before_the_body(
    http2: Http2, serve: Backend, length: int, begun: bytes
) -> None:
    """Of a body that comes with its head, HAProxy's req.body_size is what has come, whatever its length."""
    http2.send(CHAT, begun, length)
    _, got = await http2.read(1)
    assert json.loads(got)["error"]["code"] == "body_too_large"
    assert serve.seen == []
