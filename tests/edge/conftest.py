from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.edge import Edge, EdgeSpec
from tests.edge.backend import Backend, running
from tests.ports import own_port

MakeSpec = Callable[..., EdgeSpec]
MODELS = (("m-a", "m-a"), ("m-a.lora", "m-a"), ("m-b", "m-b"))


@pytest.fixture
async def serve() -> AsyncIterator[Backend]:
    """Ray Serve's address: the gateway application at / and every model under /models."""
    async with running("serve") as backend:
        yield backend


@pytest.fixture
def make_spec(tmp_path: Path, serve: Backend) -> MakeSpec:
    def make(**changes: Any) -> EdgeSpec:
        defaults: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": own_port(),
            "workdir": tmp_path / "edge",
            "serve_address": f"127.0.0.1:{serve.port}",
            "models": MODELS,
            "connect_timeout_s": 1,
        }
        return EdgeSpec(**{**defaults, **changes})

    return make


@dataclass(frozen=True)
class Cert:
    """A certificate with its key, and the context of a client that trusts it."""

    path: Path
    context: ssl.SSLContext


@pytest.fixture
async def cert(tmp_path: Path) -> Cert:
    path, key, alone = tmp_path / "edge cert.pem", tmp_path / "k", tmp_path / "c"
    process = await asyncio.create_subprocess_exec(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key),
        "-out", str(alone), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == 0
    path.write_text(alone.read_text() + key.read_text())
    return Cert(path, ssl.create_default_context(cafile=str(alone)))


@pytest.fixture
def spec(make_spec: MakeSpec, request: pytest.FixtureRequest) -> EdgeSpec:
    return make_spec(**getattr(request, "param", {}))


@pytest.fixture
async def edge(spec: EdgeSpec, serve: Backend) -> AsyncIterator[Edge]:
    edge = Edge(spec)
    await edge.start()
    yield edge
    await edge.stop(drain_s=1)


@pytest.fixture
async def client(spec: EdgeSpec, edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{spec.host}:{spec.port}", trust_env=False, timeout=10) as client:
        yield client
