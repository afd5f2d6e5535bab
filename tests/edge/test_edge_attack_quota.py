"""Four gateways at once against one keeper, and clients in four processes: never more is admitted than the limits."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.access.limits import Limits
from tests.edge.backend import Backend
from tests.edge.conftest import MakeSpec
from tests.edge.keyed import SECRET, Kept, edge_with_keys
from tests.waiting import until

AT_ONCE, EACH = 4, 60
ASKING = """
import asyncio, collections, json, sys, httpx
url, key, each = sys.argv[1], sys.argv[2], int(sys.argv[3])
async def main():
    seen = collections.Counter()
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
        async def one():
            answer = await http.post("/v1/chat/completions", json={"model": "m-a", "max_tokens": 100})
            seen[answer.status_code] += 1
        await asyncio.gather(*(one() for _ in range(each)))
    print(json.dumps(seen))
asyncio.run(main())
"""
RESERVING = """
import asyncio, json, sys
from app.access.items import KeeperItemQuota
from deployments.errors import OverQuota
from deployments.principal import CURRENT, Principal
url, secret, key, each, gateway = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
async def main():
    quota = KeeperItemQuota(url, secret)
    async def one(number):
        CURRENT.set(Principal(key, request=f"{gateway}-{number}"))
        try:
            await quota.reserve(7, 70)
        except OverQuota:
            return 0
        return 7
    held = await asyncio.gather(*(one(number) for number in range(each)))
    print(json.dumps({"held": sum(held)}), flush=True)
    sys.stdin.readline()
    for number, items in enumerate(held):
        CURRENT.set(Principal(key, request=f"{gateway}-{number}"))
        if items:
            await quota.done(items)
asyncio.run(main())
"""


@pytest.fixture
async def kept(make_spec: MakeSpec, serve: Backend, tmp_path: Path) -> AsyncIterator[Kept]:
    spec = make_spec(secret=SECRET, keeper=True, admission=True, bufsize=64 << 10, max_body=1 << 20)
    async with edge_with_keys(spec, tmp_path) as kept:
        yield kept


async def four(code: str, *arguments: str) -> list[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    root = str(Path(__file__).parents[2])
    return [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, *arguments, str(number), stdin=pipe, stdout=pipe, cwd=root
        )
        for number in range(AT_ONCE)
    ]


async def told(processes: list[asyncio.subprocess.Process]) -> list[dict[str, int]]:
    return [json.loads(await process.stdout.readline()) for process in processes if process.stdout]


async def ended(processes: list[asyncio.subprocess.Process]) -> None:
    for process in processes:
        await process.communicate(b"\n")
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("limits", "most"),
    [(Limits(requests_per_minute=50), 50), (Limits(tokens_per_minute=5000), 5000 // 107)],
    ids=["requests", "tokens"],
)
async def test_four_clients_at_once_get_what_one_would(kept: Kept, serve: Backend, limits: Limits, most: int) -> None:
    """A request reserves 107 tokens: 100, and one for each four bytes of its body. None ends before all have asked."""
    _, text = await kept.create(limits=limits)
    serve.hold = asyncio.Event()
    processes = await four(ASKING, str(kept.client.base_url), text, str(EACH))
    wanted, log = AT_ONCE * EACH - most, kept.folder / "edge.log"
    await asyncio.to_thread(until, lambda: log.read_text().count('"status":429') >= wanted, what="all refusals")
    serve.hold.set()
    seen: Counter[str] = sum((Counter(each) for each in await told(processes)), Counter())
    await ended(processes)
    assert seen == {"200": most, "429": AT_ONCE * EACH - most}
    assert len(serve.seen) == most


async def test_four_gateways_at_once_reserve_no_more_items_than_there_are(kept: Kept) -> None:
    record, _ = await kept.create(limits=Limits(bulk_items=100))
    url = f"http://{kept.config.host}:{kept.config.port}"
    for _ in range(2):  # what was given back is there again, all of it
        processes = await four(RESERVING, url, SECRET, record.id, str(EACH))
        assert sum(each["held"] for each in await told(processes)) == 100 // 7 * 7
        await ended(processes)


async def test_four_gateways_at_once_reserve_no_more_tokens_than_there_are(kept: Kept) -> None:
    """Seven items may take 70 tokens; what was answered is charged until its call ends."""
    record, _ = await kept.create(limits=Limits(tokens_per_minute=1000))
    url = f"http://{kept.config.host}:{kept.config.port}"
    processes = await four(RESERVING, url, SECRET, record.id, str(EACH))
    assert sum(each["held"] for each in await told(processes)) == 1000 // 70 * 7
    await ended(processes)
