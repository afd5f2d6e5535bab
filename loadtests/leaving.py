"""How soon a client that leaves frees its slot: python -m loadtests.leaving.

Starts a service of one pocket model. Clients hang up in the middle of their streams, one after the other, straight to
the replica and through the gateway; then /metrics is read again and again until neither the engine nor the replica's
waiting room holds anything. A time ends when that reading is there: it is too long by up to two readings, never too
short. Exits with 1 where a slot was not free within a second, and with 2 where nothing could be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from loadtests.keys.aims import Judged, told
from loadtests.keys.command import number
from loadtests.keys.counters import LABEL
from loadtests.keys.figures import times_of
from loadtests.keys.service import POCKET, REQUIRED, made_key, profile
from loadtests.servers import ServerError, corral_service

FREE_MS = 1000.0
"""Within which a slot is to be free."""
HELD = ("vllm:num_requests_running", "vllm:num_requests_waiting", "corral_replica_requests")
WRITTEN, PASSED_ON = "vllm:generation_tokens_total", "corral_gateway_requests_total"
LONG = 1900
"""Tokens of an answer that takes many seconds."""
BUFSIZE = 512 << 10
"""The edge's own: where `model` comes behind so much, the gateway has to look for it."""
EVENT = b"data: "
PIECES = 5
"""Events that a client waits for before it leaves."""
LOOK_S, PATIENCE_S, COUNTED_S, SILENCE_S = 0.005, 90.0, 30.0, 90.0
MESSAGES = ({"role": "user", "content": "Write and write."},)
# /generate takes no ignore_eos; JSON of a schema with one endless text goes on as long.
ENDLESS = {"type": "json_schema", "json_schema": {"name": "endless", "schema": {"type": "string", "minLength": 4000}}}


@dataclass(frozen=True)
class Way:
    """One way to an engine. path: also the route under which the gateway counts it. passed_on: whether it does."""

    name: str
    path: str
    body: Mapping[str, Any]
    passed_on: bool


def ways(model: str) -> tuple[Way, ...]:
    chat = {"model": model, "messages": MESSAGES, "max_tokens": LONG, "ignore_eos": True, "stream": True}
    padded = {"user": "x" * BUFSIZE, **chat}
    generate = {
        "model": model, "messages": MESSAGES, "max_tokens": LONG, "response_format": ENDLESS, "stream": True,
    }  # fmt: skip
    path = "/v1/chat/completions"
    return (
        Way("straight to the replica", path, chat, passed_on=False),
        Way("through the gateway", path, padded, passed_on=True),
        Way("through /generate", "/generate", generate, passed_on=True),
    )


def total(exposition: str, name: str, wanted: str) -> float | None:
    """Of a metric's series with a label of that value; None where there is none."""
    series = re.findall(rf"^{re.escape(name)}\{{(.*)\}} (\S+)$", exposition, re.MULTILINE)
    found = [float(value) for labels, value in series if wanted in dict(LABEL.findall(labels)).values()]
    return sum(found) if found else None


def held(exposition: str, model: str) -> float | None:
    """What the model's engine and its waiting room hold, together; None where one of them has not told."""
    parts = [total(exposition, name, model) for name in HELD]
    return sum(part for part in parts if part is not None) if None not in parts else None


@dataclass
class Service:
    """What is asked and looked at. readings_ms: how long each look at /metrics took."""

    url: str
    key: str
    model: str
    http: httpx.Client
    readings_ms: list[float] = field(default_factory=list)

    def metrics(self) -> str:
        """Raises RuntimeError where they are refused."""
        began = time.perf_counter()
        try:
            answer = self.http.get(f"{self.url}/metrics", headers={"authorization": f"Bearer {self.key}"})
        except httpx.TransportError as error:
            raise RuntimeError(f"/metrics does not answer: {error!r}") from error
        if answer.status_code != 200:
            raise RuntimeError(f"/metrics answered {answer.status_code}")
        self.readings_ms.append(1000 * (time.perf_counter() - began))
        return answer.text

    def written(self) -> float:
        """Tokens, so far."""
        return total(self.metrics(), WRITTEN, self.model) or 0.0

    def passed_on(self, path: str) -> float:
        """Requests of that path that the gateway has ended."""
        return total(self.metrics(), PASSED_ON, path) or 0.0

    def until(self, free: bool) -> float:
        """The moment at which a reading showed all slots free, or one taken. Raises RuntimeError."""
        late_s = time.perf_counter() + PATIENCE_S
        while (now := held(self.metrics(), self.model)) is None or (now == 0) != free:
            if time.perf_counter() > late_s:
                state = "does not tell what it holds" if now is None else f"holds {now:g} requests"
                raise RuntimeError(f"after {PATIENCE_S:g} s {self.model} still {state}")
            time.sleep(LOOK_S)
        return time.perf_counter()


@contextmanager
def streaming(service: Service, way: Way) -> Iterator[socket.socket]:
    """A client in the middle of its stream; it leaves at the end of the block. Raises RuntimeError."""
    place, content = urlsplit(service.url), json.dumps(way.body).encode()
    head = f"POST {way.path} HTTP/1.1\r\nhost: {place.netloc}\r\nauthorization: Bearer {service.key}\r\n"
    head += f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(content)}\r\n\r\n"
    with socket.create_connection((place.hostname, place.port), SILENCE_S) as connection:
        came = b""
        try:
            connection.sendall(head.encode() + content)
            while came.count(EVENT) < PIECES and (piece := connection.recv(1 << 16)):
                came += piece
        except OSError as error:
            raise RuntimeError(f"{way.name}: no stream came: {error!r}") from error
        if came.count(EVENT) < PIECES:
            raise RuntimeError(f"{way.name}: the stream ended before its client left: {came[-300:]!r}")
        yield connection


def left_ms(service: Service, way: Way) -> float:
    """From one client's close to a free slot. RuntimeError where it had none, or its stream ended by itself."""
    before = service.written()
    with streaming(service, way):
        service.until(free=False)
        left_s = time.perf_counter()
    took_ms = 1000 * (service.until(free=True) - left_s)
    if took_ms <= FREE_MS and service.written() - before >= LONG:
        raise RuntimeError(f"{way.name}: the answer was whole before its client left")
    return took_ms


def measured(service: Service, way: Way, streams: int) -> list[float]:
    """Of so many clients, one after the other. RuntimeError where they took another way."""
    service.until(free=True)
    before = service.passed_on(way.path)
    took_ms = [left_ms(service, way) for _ in range(streams)]
    expected, late_s = streams if way.passed_on else 0, time.perf_counter() + COUNTED_S
    while (ended := service.passed_on(way.path) - before) < expected and time.perf_counter() < late_s:
        time.sleep(LOOK_S)
    if ended != expected:
        raise RuntimeError(f"{way.name}: {ended:g} of {streams} streams passed through the gateway, not {expected}")
    return took_ms


def judged(found: Mapping[str, Sequence[float]]) -> list[Judged]:
    """Name of a way -> its times, the longest of which decides."""
    return [
        Judged(
            f"ms from a close to a free slot, {name}, the longest of {len(took_ms)},", times_of(took_ms).most, FREE_MS
        )
        for name, took_ms in found.items()
    ]


def leaving(service: Service, streams: int) -> list[Judged]:
    """Measures and prints each way. Raises RuntimeError."""
    found: dict[str, list[float]] = {}
    for way in ways(service.model):
        found[way.name] = measured(service, way, streams)
        print(f"{way.name}: free after {times_of(found[way.name])}, {streams} streams", flush=True)
    print(f"a reading of /metrics, by two of which a time may be too long: {times_of(service.readings_ms)}")
    return judged(found)


def started(model: str, folder: Path, stack: ExitStack) -> Service:
    """A service of its own, which asks for keys and has heard of this one."""
    path = profile(folder, model, REQUIRED)
    url = stack.enter_context(corral_service(str(path)))
    key = made_key(path, "leaver", "--scopes", "models,metrics")
    http = stack.enter_context(httpx.Client(timeout=SILENCE_S, trust_env=False))
    late_s = time.perf_counter() + PATIENCE_S
    headers = {"authorization": f"Bearer {key}"}
    while http.get(f"{url}/metrics", headers=headers).status_code != 200 and time.perf_counter() < late_s:
        time.sleep(0.2)
    return Service(url, key, model, http)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.leaving", description=__doc__)
    parser.add_argument("--model", choices=POCKET, default="pocket-8b")
    parser.add_argument("--streams", type=number(int, 1, 1000), default=20, help="of each way")
    return parser.parse_args(arguments)


def main() -> int:
    given = parsed()
    os.environ.pop("CORRAL_API_KEY", None)  # the service that is started here has others
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["CORRAL_STATE_DIR"] = str(folder / "state")
        try:
            return 0 if told(leaving(started(given.model, folder, stack), given.streams)) else 1
        except (RuntimeError, ServerError) as error:
            print(f"nothing was measured: {error}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    raise SystemExit(main())
