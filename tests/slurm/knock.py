"""Tries what others have, as whoever runs it: HTTP and gRPC on TCP ports, Unix sockets, files, /proc of processes.

Standard input: {"tcp": [[host, port], ...], "headers": {...}, "unix": [path, ...], "folders": [...], "owner": uid,
"since": unix time}. Answers in JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]

PATHS = (
    "/", "/static/main.js", "/v1/models", "/v1/usage", "/metrics", "/-/routes", "/-/healthz", "/health", "/admit",
    "/internal/replicas", "/docs",
)  # fmt: skip
UPGRADES = ("/", "/v1/models", "/-/routes")
UPGRADE = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
CALLS = (
    "/ray.rpc.InternalKVGcsService/InternalKVGet", "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats", "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats", "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.RayletDriver/ClusterInfo", "/ray.serve.ASGIService/HandleRequest",
)  # fmt: skip
"""Of each of Ray's servers one method that its owner may call with an empty message."""
GRPCS_OWN = {
    "/grpc.health.v1.Health/Check": b"",
    "/grpc.channelz.v1.Channelz/GetServers": b"",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": b"\x3a\x01*",
}
"""Of each service that gRPC itself brings along a method, and what it is asked: the last one for a list of services."""
SETTINGS = 4
"""The type of the frame that a server of HTTP/2 begins with."""
SILENCE_S = 3.0
MOST = 1 << 20


Question = tuple[str, int, str, bool]
"""Host, port, path, and whether a websocket is wanted."""


def ask(question: Question, headers: dict[str, str]) -> str:
    """All that comes back, as latin-1; "" where nothing does."""
    host, port, path, upgrade = question
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    extra += f"Connection: Upgrade\r\n{UPGRADE}" if upgrade else "Connection: close\r\n"
    got = b""
    try:
        with socket.create_connection((host, port), SILENCE_S) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{extra}\r\n".encode())
            while len(got) < MOST and (piece := connection.recv(MOST)):
                got += piece
    except OSError:  # refused, reset or silent: what came until then counts
        pass
    return got.decode("latin-1")


def questions(ports: list[tuple[str, int]]) -> list[Question]:
    asked = [(path, False) for path in PATHS] + [(path, True) for path in UPGRADES]
    return [(host, port, path, upgrade) for host, port in ports for path, upgrade in asked]


Told = dict[str, tuple[str, str]]
"""Method -> the status that a call ends with, and all that was said until then, as latin-1."""


def call(host: str, port: int) -> Told:
    """Without a token. On the wire a call with one message is a stream with one, so all are asked alike."""
    told: Told = {}
    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        for method, message in {**dict.fromkeys(CALLS, b""), **GRPCS_OWN}.items():
            said, status = b"", "OK"
            try:
                for piece in channel.stream_stream(method)(iter((message,)), timeout=SILENCE_S):
                    said += piece
            except grpc.RpcError as error:
                status = error.code().name
            told[method] = (status, said.decode("latin-1"))
    return told


def speaks_http2(answer: str) -> bool:
    return len(answer) > SETTINGS and not answer.startswith("HTTP/1") and ord(answer[3]) == SETTINGS


def connects(path: str) -> bool:
    """Whether that socket, or for a name that begins with @ that abstract one, lets us in."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as client:
            try:
                client.connect(f"\0{path[1:]}" if path.startswith("@") else path)
            except OSError:
                continue
            return True
    return False


def open_to_us(folder: str, owner: int, since: float) -> Iterator[str]:
    """Files of that user, changed since then, which may be read or written, or listed."""
    for at, folders, files in os.walk(folder):
        for path in (os.path.join(at, name) for name in (*folders, *files)):  # noqa: PTH118
            status = os.lstat(path)
            if (
                status.st_uid == owner
                and status.st_ctime >= since
                and any(os.access(path, how) for how in (os.R_OK, os.W_OK))
            ):
                yield path


def seen_in_proc() -> Iterator[tuple[str, str]]:
    """Command lines and environments of all processes that let us read them."""
    for process in Path("/proc").glob("[0-9]*"):
        for path in (process / "cmdline", process / "environ"):
            with suppress(OSError):  # it is not ours, or has just ended
                if text := path.read_bytes():
                    yield str(path), text.decode("latin-1")


def main() -> None:
    wanted: dict[str, Any] = json.load(sys.stdin)
    asked = questions([(host, port) for host, port in wanted["tcp"]])
    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(lambda question: ask(question, wanted["headers"]), asked))
        http2 = sorted({asked[at][:2] for at, answer in enumerate(said) if speaks_http2(answer)})
        calls = list(pool.map(lambda place: call(*place), http2))
    told = {
        "tcp": [[*question, answer] for question, answer in zip(asked, said, strict=True)],
        "grpc": [[*place, each] for place, each in zip(http2, calls, strict=True)],
        "unix": [path for path in wanted["unix"] if connects(path)],
        "files": [
            path for folder in wanted["folders"] for path in open_to_us(folder, wanted["owner"], wanted["since"])
        ],
        "processes": dict(seen_in_proc()),
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
