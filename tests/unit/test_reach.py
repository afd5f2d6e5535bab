"""How the commands reach a service: the address, the key, and the trust in its own certificate, at real TLS servers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import httpx
import pytest

from app.access.certificate import Certificate, kept_or_made
from app.access.mine import VARIABLE
from app.bench.endpoints import cards_of, ours
from app.launch import NotRunningError
from app.reach import reach
from app.state import DIRECTORY_VARIABLE, ServiceState, write_state
from app.talk import Talk, UnreachableError
from loadtests.client.endpoint import look
from loadtests.client.exchange import open_session
from tests.unit.tls_service import KEY, tls_service


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificate:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    return kept_or_made(tmp_path / "tls", ["node7"], [], datetime.now(UTC))


@pytest.fixture
def service(certificate: Certificate, tmp_path: Path) -> Iterator[ServiceState]:
    """This person's own one, with its first key."""
    (tmp_path / "first-key").write_text(f"{KEY}\n")
    with tls_service(certificate) as port:
        state = ServiceState(
            "mine", 1, "", "pocket", str(tmp_path), f"https://127.0.0.1:{port}", "serving",
            key_file=str(tmp_path / "first-key"), certificate=str(certificate.certificate_path),
        )  # fmt: skip
        write_state(state)
        yield state


def test_ones_own_service_is_trusted_and_gets_its_key(service: ServiceState) -> None:
    with Talk.open("mine", None) as talk:
        assert talk.models() == []  # it answers; its card tells no task
    with httpx.Client(**reach("mine", None, 7)) as client:
        assert client.get("/v1/models").status_code == 200
        assert (client.timeout.read, client.timeout.connect, client.trust_env) == (7, 5, False)


def test_another_address_is_trusted_by_the_authorities_alone(
    service: ServiceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Talk.open("mine", service.address) as talk, pytest.raises(UnreachableError, match="certificate verify failed"):
        talk.models()
    monkeypatch.setenv("SSL_CERT_FILE", service.certificate)  # as `corral slurm connect` says
    monkeypatch.setenv(VARIABLE, KEY)
    with httpx.Client(**reach("mine", f"{service.address}/v1/", 7)) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.trust_env


def test_a_certificate_that_is_gone_is_no_trust_in_anybody(service: ServiceState) -> None:
    Path(service.certificate).unlink()
    with Talk.open("mine", None) as talk, pytest.raises(UnreachableError, match="certificate verify failed"):
        talk.models()


async def test_the_benchmark_trusts_it_too(service: ServiceState) -> None:
    where = ours("mine", None, None)
    assert list(await cards_of(where)) == ["small"]
    side = await look(where.url, key=where.key, certificate=where.certificate)
    assert (side.models, side.certificate) == (("small",), service.certificate)
    async with open_session(where.key, 5, side.certificate) as session, session.get(f"{side.url}/v1/models") as answer:
        assert answer.status == 200
    async with open_session(where.key, 5) as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(f"{side.url}/v1/models")


def test_a_service_that_does_not_run_is_told(certificate: Certificate) -> None:
    with pytest.raises(NotRunningError, match="--url names another"):
        reach("nobody", None, 1)
