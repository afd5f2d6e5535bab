"""One service for the whole session, with the herd of herd.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.collector import Collector, collecting
from tests.ports import own_port
from tests.serve.herd import write_herd
from tests.serve.service import RunningService, running_corral
from tests.waiting import PATIENCE_S

LAST = (
    "test_recovery", "test_tribunal_loss", "test_interrupt", "test_serve_deploy", "test_faults", "test_disk_and_clock",
)  # fmt: skip
"""Modules that disturb the shared service or load the machine, in this order, after all others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        module = item.nodeid.partition("::")[0].rpartition("/")[2].removesuffix(".py")
        return LAST.index(module) + 1 if module in LAST else 0

    items.sort(key=rank)


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Gets the traces of the shared service."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[RunningService]:
    folder, port = tmp_path_factory.mktemp("herd"), own_port()
    with running_corral("shared", write_herd(folder, port, collector.url), port, folder / "state") as service:
        yield service


@pytest.fixture(scope="session")
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=PATIENCE_S, trust_env=False) as client:
        yield client


@pytest.fixture
async def ahttp(service: RunningService) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE_S, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def openai(service: RunningService) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
async def aopenai(service: RunningService) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
        yield client
