"""The parts of a running service: their processes, and the servers that its edge has for each model."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ADMIN_S = 5
SERVERS = "show servers state"


@dataclass(frozen=True)
class Parts:
    """Of the service whose state file this is."""

    state_file: Path

    @property
    def state(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.state_file.read_text())
        return told

    @property
    def run_dir(self) -> Path:
        return Path(self.state["run_dir"])

    @property
    def headers(self) -> dict[str, str]:
        """What the owner asks with."""
        file = self.state["key_file"]
        return {"authorization": f"Bearer {Path(file).read_text().strip()}"} if file else {}

    @property
    def edge_log(self) -> Path:
        return self.run_dir / "edge" / "edge.log"

    def processes(self) -> list[psutil.Process]:
        root = psutil.Process(self.state["pid"])
        return [root, *root.children(recursive=True)]

    def titled(self, fits: Callable[[str], bool]) -> list[psutil.Process]:
        return [each for each in self.processes() if fits(title(each))]

    def containing(self, *texts: str) -> list[psutil.Process]:
        """Those with any of these in their titles."""
        return self.titled(lambda text: any(each in text for each in texts))

    def replicas(self, application: str) -> list[psutil.Process]:
        """Processes of the replicas of a Serve application, such as model-pocket-1b or gateway."""
        return self.titled(lambda text: text.startswith(f"ray::ServeReplica:{application}:"))

    def engines(self, replica: psutil.Process) -> list[psutil.Process]:
        """EngineCore of a replica: it writes to the replica's output, whoever's child it is."""
        there = self.titled(lambda text: "EngineCore" in text)
        return [each for each in there if output(each) == output(replica)]

    def edge(self) -> list[psutil.Process]:
        return [each for each in psutil.Process(self.state["pid"]).children() if "haproxy.cfg" in title(each)]

    def serves_haproxy(self) -> list[psutil.Process]:
        ours = {each.pid for each in self.edge()}
        return [each for each in self.titled(lambda text: "haproxy.cfg" in text) if each.pid not in ours]

    def slot_of(self, backend: str, replica: psutil.Process) -> str:
        """The edge's name of a replica, as its log has it; empty if it has none."""
        ports = {each.laddr.port for each in replica.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
        return next((slot.name for slot in self.slots(backend) if slot.port in ports), "")

    def slots(self, backend: str) -> list[Slot]:
        """The edge's servers that are in use, of model-MODEL or gateway."""
        rows = [line.split() for line in self.ask_edge(f"{SERVERS} {backend}").splitlines()]
        head = next(row for row in rows if row and row[0] == "#")[1:]
        found = [dict(zip(head, row, strict=False)) for row in rows if row and row[0].isdigit() and len(row) > 10]
        return [
            Slot(f"{backend}/{each['srv_name']}", int(each["srv_port"]), each["srv_op_state"] != "0")
            for each in found
            if each["srv_name"] != "serve" and each["srv_admin_state"] in ("0", "4")
        ]

    def ask_edge(self, command: str) -> str:
        """The answer of the edge's admin socket; through /proc, for a path may be too long for a socket."""
        folder = os.open(self.run_dir / "edge", os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as admin:
                admin.settimeout(ADMIN_S)
                admin.connect(f"/proc/self/fd/{folder}/admin.sock")
                admin.sendall(command.encode() + b"\n")
                return b"".join(iter(lambda: admin.recv(65536), b"")).decode()
        finally:
            os.close(folder)


@dataclass(frozen=True)
class Slot:
    """A server of the edge, and whether its checks pass."""

    name: str
    port: int
    up: bool


def title(process: psutil.Process) -> str:
    """The process's command line, or nothing if it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def output(process: psutil.Process) -> str:
    """The file that is its standard output; its own id if it has just ended."""
    try:
        return str(Path(f"/proc/{process.pid}/fd/1").readlink())
    except OSError:
        return str(process.pid)
