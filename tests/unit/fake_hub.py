"""A hub that serves a model over real HTTP on the loopback, and cuts, lies and refuses when it is told to."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from app.fetch import fetch
from app.fetch_report import Report
from app.hub import Hub
from deployments.config import ModelSpec
from slurm.staging import MANIFEST

LLAMA = "meta/llama"
WEIGHTS = "model-00001-of-00001.safetensors"
BYTES = bytes(range(256)) * 2048
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "1_Pooling/config.json": b"{}",
    "empty.txt": b"",
    WEIGHTS: BYTES,
}
NOISE = {"pytorch_model.bin": b"b", "original/consolidated.00.pth": b"p", "a.gguf": b"g", "onnx/m.onnx": b"o",
         "flax_model.msgpack": b"f", "tf_model.h5": b"t", ".gitattributes": b"x"}  # fmt: skip


@dataclass
class Asked:
    """One request that the hub got."""

    path: str
    range: str | None
    token: str | None


@dataclass
class FakeHub:
    """A hub in memory. `faults` has for a file what befalls the next requests for it, in order.

    Faults: `cut N` bytes then hang up, `stall N` bytes then say nothing, `wrong` bytes, `short`, `whole` (no ranges),
    or a status, an error code and a Retry-After: `403 GatedRepo`, `429 RateLimit 7`.
    """

    models: dict[str, dict[str, bytes]] = field(default_factory=lambda: {LLAMA: FILES | NOISE})
    gated: bool = False
    heads: dict[str, str] = field(default_factory=dict)
    lies: dict[str, str] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    endpoint: str = ""
    free: threading.Event = field(default_factory=threading.Event)

    def hub(self, **changes: Any) -> Hub:
        return Hub(**{"endpoint": self.endpoint, "token": "hf_secret", "pause_s": 0.01, "timeout_s": 5, **changes})

    def head(self, model: str) -> str:
        return self.heads.get(model, "1" * 40)

    def sibling(self, path: str, data: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        lfs = {"sha256": self.lies.get(path) or hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        large = {"lfs": lfs} if path.endswith((".safetensors", ".bin")) else {}
        return {"rfilename": path, "size": len(data), "blobId": self.lies.get(path) or blob, **large}

    def ranges(self, path: str = WEIGHTS) -> list[str | None]:
        return [asked.range for asked in self.asked if asked.path == f"/cdn/{LLAMA}/{path}"]


class Handler(BaseHTTPRequestHandler):
    """Listing, auth-check, and files: the hub redirects to a host of another name, as to its CDN."""

    server: Server

    def do_GET(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.asked.append(Asked(path, self.headers["range"], self.headers["authorization"]))
        if path.startswith("/cdn/"):
            owner, name, file = path.removeprefix("/cdn/").split("/", 2)
            self._file(hub, hub.models[f"{owner}/{name}"][file], file)
        elif path.startswith("/api/models/"):
            self._api(hub, *path.removeprefix("/api/models/").split("/"))
        else:
            self._redirect(hub, path)

    def _api(self, hub: FakeHub, owner: str, name: str, *rest: str) -> None:
        model = f"{owner}/{name}"
        if fault := self._fault(hub, model):
            self._refuse(*fault.split())
        elif model not in hub.models:
            self._refuse("401", "RepoNotFound")
        elif rest == ("auth-check",):
            self._refuse("403", "GatedRepo")
        elif rest[:1] == ("revision",) and rest[1] != hub.head(model):
            self._refuse("404", "RevisionNotFound")
        else:
            siblings = [hub.sibling(path, data) for path, data in hub.models[model].items()]
            gated = "manual" if hub.gated else False
            info = {"id": model, "sha": hub.head(model), "siblings": siblings, "gated": gated}
            self._send(200, json.dumps(info).encode())

    def _redirect(self, hub: FakeHub, path: str) -> None:
        model, _, rest = path.removeprefix("/").partition("/resolve/")
        file = rest.partition("/")[2]
        fault = self._fault(hub, f"resolve {file}")
        if fault:
            self._refuse(*fault.split())
        else:
            place = f"http://localhost:{self.server.server_port}/cdn/{model}/{file}"
            self._send(302, b"", {"location": place})

    def _file(self, hub: FakeHub, data: bytes, path: str) -> None:
        kind, _, count = self._fault(hub, path).partition(" ")
        start = int(self.headers["range"].removeprefix("bytes=").removesuffix("-")) if self.headers["range"] else 0
        data = {"wrong": bytes(len(data)), "short": data[:-1], "long": data + b"!"}.get(kind, data)
        if start and start >= len(data):
            self._send(416, b"")
            return
        start = 0 if kind == "whole" else start
        stop = start + int(count) if count else len(data)
        self._send(206 if start else 200, data[start:stop], {"content-length": str(len(data) - start)})
        if kind == "stall":
            hub.free.wait(20)

    def _fault(self, hub: FakeHub, what: str) -> str:
        faults = hub.faults.get(what) or [""]
        return faults.pop(0)

    def _refuse(self, status: str, code: str = "", retry_after: str = "") -> None:
        headers = {"x-error-code": code, "retry-after": retry_after}
        self._send(int(status), b"{}", {name: value for name, value in headers.items() if value})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: FakeHub) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are meant to."""


def spec(source: str = LLAMA, model: str = "m", **changes: Any) -> ModelSpec:
    return ModelSpec(id=model, source=source, **changes)


def stage(hub: FakeHub, folder: Path, **changes: Any) -> Report:
    (report,) = fetch([spec()], folder, hub=hub.hub(), **changes)
    return report


def place(folder: Path) -> Path:
    return folder / "weights" / "meta--llama"


def lies_in(folder: Path) -> dict[str, bytes]:
    paths = [path for path in place(folder).rglob("*") if path.is_file() and path.name != MANIFEST]
    return {str(path.relative_to(place(folder))): path.read_bytes() for path in paths}
