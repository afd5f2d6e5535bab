"""No key's text in any log of the edge or the keeper, whatever is sent in its place."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from tests.edge.backend import Backend
from tests.edge.conftest import MakeSpec
from tests.edge.keyed import ASKED, CHAT, SECRET, bearer, edge_with_keys, odd_headers


async def test_logs_name_keys_by_their_ids_alone(
    capfd: pytest.CaptureFixture[str], make_spec: MakeSpec, serve: Backend, tmp_path: Path
) -> None:
    spec = make_spec(secret=SECRET, keeper=True, admission=True, bufsize=64 << 10, max_body=1 << 20)
    async with edge_with_keys(spec, tmp_path) as kept:
        record, text = await kept.create(scopes=("models:m-a",))
        gone, old = await kept.create()
        kept.store.revoke(gone.id)
        await kept.take()
        statuses = set()
        for headers in [*odd_headers(text), *odd_headers(old), bearer(text), bearer(old)]:
            statuses.add((await kept.client.post(CHAT, json=ASKED, headers=headers)).status_code)
            statuses.add((await kept.client.get("/v1/usage", headers=headers)).status_code)
        refused = await kept.ask(text, model="m-b")
        (tmp_path / "keys.json").write_text("{")
        said = await _complaint(capfd)
    assert statuses == {200, 401}
    assert refused.status_code == 403
    said += "".join(capfd.readouterr())
    logs = {path.name: path.read_text(errors="replace") for path in kept.folder.iterdir() if path.suffix == ".log"}
    assert _ids(logs["edge.log"]) == {"-", record.id}
    for name, log in {**logs, "of the keeper": said}.items():
        for key in (text, old):
            assert key.rpartition("-")[2][:16] not in log.lower(), name
        assert re.search("corral-[a-z2-7]{8}-", log) is None, name


async def _complaint(capfd: pytest.CaptureFixture[str]) -> str:
    """What the keeper says until it finds the damaged file of the keys."""
    said = ""
    async with asyncio.timeout(30):
        while "the keys cannot be read" not in said:
            said += "".join(capfd.readouterr())
            await asyncio.sleep(0.05)
    return said


def _ids(log: str) -> set[str]:
    return {json.loads(line)["key"] for line in log.splitlines() if line.startswith("{") and '"key"' in line}


async def test_the_edge_tells_no_key_in_what_it_keeps(make_spec: MakeSpec, serve: Backend, tmp_path: Path) -> None:
    """Its maps hold digests, for its own user alone."""
    spec = make_spec(secret=SECRET, keeper=True, admission=True)
    async with edge_with_keys(spec, tmp_path) as kept:
        _, text = await kept.create()
        await kept.edge.reload(spec)
        kept_there = {path: path.read_bytes() for path in kept.folder.iterdir() if path.is_file()}
        assert (await kept.ask(text)).status_code == 200
    assert len(kept_there) > 4
    for path, content in kept_there.items():
        assert text.rpartition("-")[2].encode() not in content, path
