"""A full disk takes lines from the edge's log and nothing else: requests, replicas, keys and a restart go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from app.edge import Edge, EdgeSpec
from tests.edge.backend import Backend, running
from tests.edge.conftest import MakeSpec
from tests.waiting import eventually

CHAT = "/v1/chat/completions"
BODY = {"model": "m-a"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """One of a megabyte; root alone can mount it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def spec(make_spec: MakeSpec, disk: Path) -> EdgeSpec:
    return make_spec(workdir=disk / "edge")


@pytest.fixture
async def other() -> AsyncIterator[Backend]:
    async with running("other") as backend:
        yield backend


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):  # to the last byte
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    assert os.statvfs(disk).f_bavail == 0
    return filler


def logged(spec: EdgeSpec) -> set[str]:
    """The ids of the requests that have a line of their own; where there was no room a line is cut, or lost."""
    found = set()
    for line in (spec.workdir / "edge.log").read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            found.add(json.loads(line)["id"])
    return found


async def test_requests_go_on_and_the_log_does_once_there_is_room(
    client: httpx.AsyncClient, edge: Edge, spec: EdgeSpec, disk: Path, other: Backend
) -> None:
    async def ask(request_id: str) -> str:
        answer = await client.post(CHAT, json=BODY, headers={"x-request-id": request_id})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["from"])

    await ask("before")
    await eventually(lambda: "before" in logged(spec))
    filler = fill(disk)
    assert {await ask(f"full-{number}") for number in range(100)} == {"serve"}
    await edge.set_replicas("m-a", [("127.0.0.1", other.port)])
    assert await ask("full-other") == "other"
    filler.unlink()
    for request_id in ("behind the cut one", "after"):
        await ask(request_id.replace(" ", "-"))
    await eventually(lambda: "after" in logged(spec))
    assert "before" in logged(spec)


async def test_it_starts_again_on_a_disk_that_was_full(
    client: httpx.AsyncClient, edge: Edge, disk: Path, serve: Backend
) -> None:
    """Its configuration is written anew: there has to be room for that."""
    filler = fill(disk)
    assert edge.pid
    os.kill(edge.pid, 9)
    await asyncio.wait_for(edge.wait(), 5)
    with pytest.raises(OSError, match="No space left"):
        await edge.start()
    filler.unlink()
    await edge.start()
    assert (await client.post(CHAT, json=BODY)).status_code == 200
