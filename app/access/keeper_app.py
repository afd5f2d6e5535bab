"""The keeper as a process: HTTP on a socket in the edge's folder and on a port for replicas, and the edge's log lines.

It ends with the process that started it, whose TERM it obeys.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from app.access.estimate import Estimate
from app.access.keeper import Answer, Asked, Keeper, log
from app.access.keys import KeyStore
from app.access.ledger import FIELDS, Ledger, LedgerError
from app.access.tally import Tally
from app.errors import problem_of
from deployments.errors import BadRequest, Forbidden, OverQuota
from deployments.principal import HEADER, Principal
from deployments.secret import Door, OnlyFromInside

SOCKET, LOG_SOCKET = "keeper.sock", "keeper-log.sock"
RELOAD_S, FLUSH_S, COPY_S = 1.0, 1.0, 30.0
LOG_BUFFER = 8 << 20
KEEP_ALIVE_S = 75
LOOKS_PER_S = 10


@dataclass(frozen=True)
class KeeperConfig:
    """folder: the edge's. keys: their file, if they are asked for. usage: where a copy of the ledger is kept.

    host, port: where replicas tell what they counted. secret: which they send along.
    """

    folder: str
    host: str
    port: int
    secret: str
    keys: str | None
    usage: str
    context_tokens: dict[str, int]

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def create_keeper_app(keeper: Keeper, secret: str) -> Starlette:
    """What the keeper answers, to the service's own processes alone."""
    routes = KeeperRoutes(keeper)
    return Starlette(
        routes=[
            Route("/admit", routes.admit),
            Route("/used", routes.used, methods=["POST"]),
            Route("/items", routes.items, methods=["POST"]),
            Route("/items/done", routes.items_done, methods=["POST"]),
            Route("/metrics", routes.metrics),
            Route("/v1/usage", routes.usage),
        ],
        middleware=[Middleware(OnlyFromInside, Door(secret))],
    )


class KeeperRoutes:
    """Keeper over HTTP."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._second, self._looks = 0, Counter[str]()

    async def admit(self, request: Request) -> Response:
        told = request.headers
        asked = Asked(
            told.get("x-request", ""), told.get("x-key", ""), told.get("x-method", ""), told.get("x-path", ""),
            told.get("x-model"), _number(told.get("x-body-bytes")) or 0, _number(told.get("x-answer-tokens")),
        )  # fmt: skip
        return _response(self._keeper.admit(asked))

    async def used(self, request: Request) -> Response:
        told = await request.json()
        self._keeper.used(str(told["batch"]), told["events"])
        return Response(status_code=204)

    async def items(self, request: Request) -> Response:
        told = await request.json()
        return _response(self._keeper.admit_items(str(told["request"]), str(told["key"]), int(told["items"])))

    async def items_done(self, request: Request) -> Response:
        told = await request.json()
        self._keeper.items_done(str(told["request"]), str(told["key"]), int(told["count"]))
        return Response(status_code=204)

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(self._keeper.tally.exposition())

    async def usage(self, request: Request) -> Response:
        """Usage by day, key and model: of the key that asks, or with admin of all."""
        try:
            told = request.headers.get(HEADER)
            principal = Principal() if told is None else Principal.from_header(told)
            if not self._may_look(principal.key):
                raise OverQuota(f"Usage may be asked for {LOOKS_PER_S} times a second; try again.", 1, "quota_rate")
            return JSONResponse(usage(self._keeper, principal, dict(request.query_params)))
        except (BadRequest, Forbidden, OverQuota) as error:
            return problem_of(error).response()

    def _may_look(self, key: str) -> bool:
        """Reading the ledger takes a while, in which nobody is admitted."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._looks = second, Counter()
        self._looks[key] += 1
        return self._looks[key] <= LOOKS_PER_S


def usage(keeper: Keeper, principal: Principal, query: dict[str, str]) -> dict[str, Any]:
    """What GET /v1/usage tells. Raises BadRequest, Forbidden."""
    if unknown := query.keys() - {"since", "until", "key", "by"}:
        raise BadRequest(f"{min(unknown)}: unknown; there are since, until, key and by.", min(unknown)[:64])
    key = query.get("key")
    if not principal.may("admin"):
        if key not in (None, principal.key):
            raise Forbidden("This API key may see its own usage only; that of others needs the scope admin.", "key")
        key = principal.key
    words = query.get("by", "day,key,model").split(",")
    if strays := set(words) - set(FIELDS):
        raise BadRequest(f"by: {min(strays)[:32]!r} is none of {', '.join(FIELDS)}.", "by")
    by = [each for each in FIELDS if each in words]
    names = keeper.names()
    rows = keeper.ledger.usage(_day(query, "since"), _day(query, "until"), key, by)
    return {"object": "usage", "data": [_named(row.to_json(), names) for row in rows]}


def _named(row: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {**row, "name": names[row["key"]]} if row.get("key") in names else row


def _day(query: dict[str, str], name: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(query[name]) if name in query else None
    except ValueError:
        raise BadRequest(f"{name}: {query[name][:32]!r} is no day; write it as 2026-11-21.", name) from None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _response(answer: Answer) -> Response:
    headers = {"x-corral-answer": "1", **answer.headers}
    return Response(answer.body, answer.status, headers, "application/json" if answer.body else None)


class LogLines(asyncio.DatagramProtocol):
    """Lines of the edge's log, one in each datagram."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def datagram_received(self, data: bytes, _: Any) -> None:
        self._take(data)


async def serve(config: KeeperConfig, parent: int) -> None:
    """Until TERM, or until the process `parent` ends.

    The working folder is the edge's, so that its sockets' names are short.
    """
    os.chdir(config.folder)
    ledger, copy = _ledger(Path(config.usage))
    store = KeyStore(Path(config.keys)) if config.keys else None
    keeper = Keeper(store, ledger, Estimate(config.context_tokens), Tally())
    keeper.reload()
    app = create_keeper_app(keeper, config.secret)
    uvicorn_config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", backlog=4096)
    uvicorn_config.timeout_keep_alive, uvicorn_config.timeout_graceful_shutdown = KEEP_ALIVE_S, 1
    server = uvicorn.Server(uvicorn_config)
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: LogLines(keeper.ended), sock=_log_socket())
    chores = asyncio.create_task(_chores(keeper, copy))
    orphaned = asyncio.create_task(_end_with_parent(server, parent))
    try:
        await server.serve(sockets=[_unix_socket(), _tcp_socket(config.host, config.port)])
    finally:
        for task in (chores, orphaned):
            task.cancel()
        _try(keeper.ledger.flush)
        if copy:
            _try(partial(keeper.ledger.copy_to, copy))


def _ledger(kept: Path) -> tuple[Ledger, Path | None]:
    """The ledger that goes on from `kept`, and where its copies go; a file of a newer Corral's is left alone."""
    live = Path("usage.db")
    try:
        return Ledger.open(live, kept), kept
    except LedgerError as error:
        log.error("usage is counted for this start alone: %s", error)
        return Ledger.open(live), None


async def _chores(keeper: Keeper, copy: Path | None) -> None:
    """Follow the keys' file, and write down what was used."""
    loop = asyncio.get_running_loop()
    copied = loop.time()
    while True:
        await asyncio.sleep(RELOAD_S)
        keeper.reload()
        _try(keeper.ledger.flush)
        if copy and loop.time() - copied > COPY_S:
            copied = loop.time()
            await asyncio.to_thread(_try, partial(keeper.ledger.snapshot().save, copy))


def _try(write: Callable[[], object]) -> None:
    """Nothing is lost where it fails: it is written with what comes later."""
    try:
        write()
    except LedgerError as error:
        log.error("usage is kept in memory for now: %s", error)


async def _end_with_parent(server: uvicorn.Server, parent: int) -> None:
    while os.getppid() == parent:
        await asyncio.sleep(1)
    server.should_exit = True


def _unix_socket() -> socket.socket:
    Path(SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    Path(SOCKET).chmod(0o600)
    return listener


def _tcp_socket(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _log_socket() -> socket.socket:
    Path(LOG_SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LOG_BUFFER)
    listener.bind(LOG_SOCKET)
    Path(LOG_SOCKET).chmod(0o600)
    return listener


def main() -> None:
    """Entry of the process; its configuration comes on standard input, for it holds a secret."""
    parent = os.getppid()
    config = KeeperConfig(**json.loads(sys.stdin.readline()))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn obeys it, and then raises it once more
    asyncio.run(serve(config, parent))


if __name__ == "__main__":
    main()
