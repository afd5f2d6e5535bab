"""The keeper as a process: HTTP on a socket in the edge's folder and on a port for replicas, and the edge's log lines.

It ends with the process that started it, whose TERM it obeys.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp

from app.access.edge_lines import PIPE, EdgeLines, Lines, open_pipe
from app.access.estimate import Estimate
from app.access.keeper import Keeper, log
from app.access.keeper_routes import create_keeper_app
from app.access.key_store import KeyStore
from app.access.ledger import Ledger
from app.access.tally import Tally
from app.access.usage_copies import UsageCopies, exchange, exchange_aside, take_up
from app.access.usage_tables import LedgerError
from app.monitoring.outlook import NO_OUTLOOK, Outlook

SOCKET = "keeper.sock"
CHORES_S, COPY_S = 1.0, 30.0
KEEP_ALIVE_S = 75
KEPT_FOR_NOW = "usage is kept here for now, and copied with what comes later: %s"


@dataclass(frozen=True)
class KeeperConfig:
    """folder: the edge's. keys: their file, if they are asked for. usage: beside it lie the copies (usage_copies.py).

    host, port: where replicas tell what they counted. secret: which they send along. outlook: shown with the metrics.
    traces: the profile's TracesConfig as model_dump gives it.
    """

    folder: str
    host: str
    port: int
    secret: str
    keys: str | None
    usage: str
    context_tokens: dict[str, int]
    outlook: Outlook = NO_OUTLOOK
    traces: dict[str, Any] | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> KeeperConfig:
        told = json.loads(text)
        return cls(**{**told, "outlook": Outlook(**told.get("outlook", {}))})


async def serve(config: KeeperConfig, parent: int) -> None:
    """Until TERM, or until the process `parent` ends.

    The working folder is the edge's, so that its sockets' names are short.
    """
    os.chdir(config.folder)
    keeper, copies = _keeper(config), UsageCopies(Path(config.usage))
    _try(partial(take_up, keeper.ledger, copies))
    server = uvicorn.Server(_uvicorn_config(create_keeper_app(keeper, config.secret, config.outlook.exposition)))
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    edge = EdgeLines(open_pipe(Path(PIPE)), Lines(_ended(keeper, config.traces)))
    loop.add_reader(edge.pipe, edge.read)
    chores = asyncio.create_task(_chores(keeper, copies, ending))
    orphaned = asyncio.create_task(_end_with_parent(server, parent))
    try:
        await server.serve(sockets=[_unix_socket(SOCKET), _tcp_socket(config.host, config.port)])
    finally:
        orphaned.cancel()
        loop.remove_reader(edge.pipe)
        edge.read_rest()
        ending.set()
        await asyncio.gather(chores, return_exceptions=True)  # a copy under way must not be the last to be saved
        _try(keeper.ledger.flush)
        _try(partial(exchange, keeper.ledger, copies))


def _ended(keeper: Keeper, traces: dict[str, Any] | None) -> Callable[[bytes], None]:
    """What is done with a line of the edge's log."""
    if traces is None:
        return keeper.ended
    from app.tracing.edge_span import EdgeSpans  # not before it is needed: whoever asks for admission waits
    from deployments.tracing_config import TracesConfig

    spans = EdgeSpans.sent_to(TracesConfig(**traces))

    def ended(line: bytes) -> None:
        keeper.ended(line)
        spans.ended(line)

    return ended


def _keeper(config: KeeperConfig) -> Keeper:
    """With the keys as they are now. Its ledger goes on from where a keeper of this start was killed."""
    store = KeyStore(Path(config.keys)) if config.keys else None
    keeper = Keeper(store, Ledger.open(Path("usage.db")), Estimate(config.context_tokens), Tally())
    keeper.reload()
    return keeper


def _uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", backlog=4096, timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )  # fmt: skip


async def _chores(keeper: Keeper, copies: UsageCopies, ending: asyncio.Event) -> None:
    """Follow the keys' file, write down what was used, and exchange it with others that count for this service."""
    loop = asyncio.get_running_loop()
    copied = loop.time()
    while not await _is_set_within(ending, CHORES_S):
        keeper.reload()
        _try(keeper.ledger.flush)
        if loop.time() - copied > COPY_S:
            copied = loop.time()
            try:
                await exchange_aside(keeper.ledger, copies)
            except LedgerError as error:
                log.error(KEPT_FOR_NOW, error)


async def _is_set_within(event: asyncio.Event, wait_s: float) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), wait_s)
    return event.is_set()


def _try(write: Callable[[], object]) -> None:
    """Nothing is lost where it fails: it is written with what comes later."""
    try:
        write()
    except LedgerError as error:
        log.error(KEPT_FOR_NOW, error)


async def _end_with_parent(server: uvicorn.Server, parent: int) -> None:
    while os.getppid() == parent:
        await asyncio.sleep(1)
    server.should_exit = True


def _unix_socket(name: str) -> socket.socket:
    """In the place of one that a keeper left that was killed."""
    Path(name).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    Path(name).chmod(0o600)
    return listener


def _tcp_socket(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def main() -> None:
    """Entry of the process; its configuration comes on standard input, for it holds a secret."""
    parent = os.getppid()
    config = KeeperConfig.from_json(sys.stdin.readline())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn obeys it, and then raises it once more
    uvloop.run(serve(config, parent))  # a third less for each request than asyncio's own loop


if __name__ == "__main__":
    main()
