"""An edge that asks for keys, with a keeper beside it, as processes; and what strangers send in the place of keys."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.access.keeper import edge_keys
from app.access.keeper_app import SOCKET, KeeperConfig
from app.access.key_records import KeyRecord
from app.access.key_store import KeyStore
from app.edge import Edge, EdgeSpec
from tests.ports import own_port

CHAT, ASKED = "/v1/chat/completions", {"model": "m-a", "max_tokens": 8}
SECRET = "5ec2e7"
LOOKS_OFTEN = "from app.access import keeper_app; keeper_app.CHORES_S = 0.2; keeper_app.main()"
"""A keeper, for `take` to be sure that it has seen the file."""


def odd_headers(text: str) -> list[dict[str, str]]:
    """Authorization as people and programs get it wrong, some of it with most of a real key's text."""
    secret = text.rpartition("-")[2]
    odd = [
        "", "Bearer", text, f"Bearer {text}0", f"Bearer {text[:-1]}", f"Bearer {text.upper()}", f"Basic {text}",
        f"Bearer {text},{text}", f"Bearer Bearer {text}", f"Bearer corral-{secret}", f"Bearer {secret}",
        f"Bearer sk-{secret}", f'Bearer "{text}"', f"Bearer {text}; key=1", f"Bearer\t{text}", f"Token {text}",
        f"Bearer {text} {'x' * 3000}", f"Bearer corral-aaaaaaaa-{secret}", f"Bearer %[req.hdr(x)]{text}",
        f"Digest username={text}", f"bearer:{text}",
    ]  # fmt: skip
    alone = [{name: value} for name in ("authorization", "x-api-key", "api-key") for value in odd]
    return [*alone, {"authorization": f"Bearer {text}0", "x-api-key": text}, {"cookie": f"key={text}"}]


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


@dataclass
class Kept:
    """An edge with a keeper beside it, and their keys."""

    edge: Edge
    client: httpx.AsyncClient
    store: KeyStore
    folder: Path
    config: KeeperConfig
    keeper: asyncio.subprocess.Process

    async def create(self, **options: object) -> tuple[KeyRecord, str]:
        record, text = self.store.create("somebody", **options)  # type: ignore[arg-type]
        await self.take()
        return record, text

    async def take(self) -> None:
        """Have the edge and the keeper know what the file says, as the service does every second."""
        await self.edge.set_keys(edge_keys(self.store.load(), time.time()))
        await asyncio.sleep(1.2)

    async def ask(self, text: str, **more: object) -> httpx.Response:
        return await self.client.post(CHAT, json={**ASKED, **more}, headers=bearer(text))


async def started(config: KeeperConfig) -> asyncio.subprocess.Process:
    """One that answers, in the place of one that was killed."""
    (Path(config.folder) / SOCKET).unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", LOOKS_OFTEN, stdin=asyncio.subprocess.PIPE)
    assert process.stdin
    process.stdin.write(config.to_json().encode() + b"\n")
    process.stdin.close()
    while not await _answers(config):
        assert process.returncode is None
        await asyncio.sleep(0.02)
    return process


async def _answers(config: KeeperConfig) -> bool:
    """On its port, where it listens last."""
    if not (Path(config.folder) / SOCKET).exists():
        return False
    try:
        _, writer = await asyncio.open_connection(config.host, config.port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@asynccontextmanager
async def edge_with_keys(spec: EdgeSpec, folder: Path) -> AsyncIterator[Kept]:
    """The keeper writes to what standard error is by then."""
    spec.workdir.mkdir(mode=0o700)
    keys, port = folder / "keys.json", own_port()
    models = {"m-a": 2048, "m-a.lora": 2048, "m-b": 2048}
    config = KeeperConfig(
        str(spec.workdir), "127.0.0.1", port, SECRET, str(keys), str(folder / "usage.db"), models
    )  # fmt: skip
    edge, keeper = Edge(spec), await started(config)
    await edge.start()
    url = f"http://{spec.host}:{spec.port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
        kept = Kept(edge, client, KeyStore(keys), spec.workdir, config, keeper)
        yield kept
    await edge.stop(drain_s=1)
    if kept.keeper.returncode is None:
        kept.keeper.terminate()
    await kept.keeper.wait()
