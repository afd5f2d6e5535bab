"""A real Prometheus finds an address with TLS that asks for keys by the files that are written for it, and follows."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import yaml

from app.access.certificate import Certificate, kept_or_made
from app.monitoring.files import Watched, Written, write
from app.monitoring.targets import Targets
from app.settings import Settings, load_settings
from deployments.principal import HEADER, Principal
from tests.edge.backend import Backend
from tests.edge.conftest import MakeSpec
from tests.edge.keyed import SECRET, Kept, edge_with_keys
from tests.ports import own_port
from tests.slurm import packages
from tests.waiting import PATIENCE_S

PACKAGE = {"prometheus": "prometheus", "promtool": "prometheus"}


@asynccontextmanager
async def running(written: Written) -> AsyncIterator[httpx.AsyncClient]:
    """Started as the command says, but for the port; it scrapes every second. The client is for its API."""
    said = yaml.safe_load(written.config.read_text())
    said["global"].update(scrape_interval="1s", scrape_timeout="1s")
    written.config.write_text(yaml.safe_dump(said))
    address = f"127.0.0.1:{own_port()}"
    words = [word for word in written.command if "listen-address" not in word]
    with (written.folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *words, f"--web.listen-address={address}", stdout=log, stderr=log
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}/api/v1", trust_env=False, timeout=10) as api:
            yield api
    finally:
        process.terminate()
        await process.wait()


async def when(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.05)


async def scraped(api: httpx.AsyncClient) -> list[str]:
    """Addresses of what it scrapes now."""
    active = (await api.get("/targets", params={"state": "active"})).json()["data"]["activeTargets"]
    return [target["scrapeUrl"] for target in active]


def made(folder: Path) -> Certificate:
    return kept_or_made(folder, [], [], datetime.now(UTC))


def service_of(keys: Path, targets: Targets) -> Watched:
    access = {"keys": "required", "file": str(keys), "tls": {}}
    settings = Settings.model_validate({**load_settings("pocket").model_dump(), "access": access})
    return Watched("moving", settings, targets, "127.0.0.1", shared=True)


async def test_prometheus_follows_a_service_to_another_address_and_certificate(
    make_spec: MakeSpec, serve: Backend, tmp_path: Path
) -> None:
    if reason := packages.why_not(PACKAGE):
        pytest.skip(f"no Prometheus here: {reason}")
    first, second = made(tmp_path / "tls" / "first"), made(tmp_path / "tls" / "second")
    asks = {"secret": SECRET, "keeper": True, "admission": True}
    here = make_spec(tls_cert=first.tls_path, **asks)
    there = make_spec(tls_cert=second.tls_path, workdir=tmp_path / "edge2", **asks)
    urls = [f"https://127.0.0.1:{spec.port}" for spec in (here, there)]
    targets = Targets(tmp_path / "service")
    targets.folder.mkdir()
    async with edge_with_keys(here, tmp_path) as old, edge_with_keys(there, tmp_path) as new:
        targets.publish(urls[0], {"service": "moving"}, [first.certificate_path])
        written = write(service_of(tmp_path / "keys.json", targets), tmp_path / "files")
        checked = await asyncio.to_thread(_checked, written)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        await _take(old, new)
        async with running(written) as api:
            await when(lambda: "/metrics" in serve.paths)
            assert await scraped(api) == [f"{urls[0]}/metrics"]
            targets.publish(urls[1], {"service": "moving"}, [first.certificate_path, second.certificate_path])
            await old.edge.stop(drain_s=0)
            serve.seen.clear()
            await when(lambda: "/metrics" in serve.paths)
            assert await scraped(api) == [f"{urls[1]}/metrics"]
            principal = Principal.from_header(serve.seen[-1].all(HEADER)[0])
            assert (principal.key, principal.scopes) == (written.made_key, ("metrics",))
            targets.withdraw()
            async with asyncio.timeout(PATIENCE_S):
                while await scraped(api):
                    await asyncio.sleep(0.05)


async def _take(*edges: Kept) -> None:
    for kept in edges:
        await kept.take()


def _checked(written: Written) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["promtool", "check", "config", written.config], capture_output=True, check=False)
