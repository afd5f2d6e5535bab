"""What another user of the nodes gets from everything that a service listens on and keeps there."""

from __future__ import annotations

import ipaddress
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.slurm.cluster import SlurmCluster
from tests.slurm.machines import REPOSITORY, Machine, User

KNOCK = Path(__file__).with_name("knock.py")
PAGE = REPOSITORY / "app/static"
LISTENS = "0A"
"""A state in /proc/net/tcp."""
HEALTHY = (b"OK", b"success")
"""What Serve says of its replicas' and of its proxies' health."""
WORDS = r"[ -~]{16,}"
"""What says something to a person, in a reply that is no HTTP."""
EVERYBODYS = {
    "/grpc.health.v1.Health/Check": "that a server is there, which an open port says, too",
    "/grpc.channelz.v1.Channelz/GetServers": "which connections there are, and how many calls; none of their contents",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "which services there are, as Ray's source says",
}
"""Methods of gRPC's own services, which answer past Ray's check of tokens -> what everybody learns by them.

SECURITY.md says so of Ray's ports. They are let pass by their names alone: any other method has to refuse.
"""
HTTP2_ONLY = "Did not receive HTTP/2 settings before handshake timeout"


@dataclass(frozen=True)
class Port:
    """Where somebody listens on TCP: on one address of a node, or on all."""

    node: str
    host: str
    number: int
    process: str

    def __str__(self) -> str:
        return f"{self.node} {self.host}:{self.number} {self.process}"

    @property
    def on_loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback


@dataclass(frozen=True)
class Reply:
    """What a port said to one question, all of it."""

    port: Port
    path: str
    upgrade: bool
    text: str

    @property
    def is_http(self) -> bool:
        return self.text.startswith("HTTP/1")

    @property
    def status(self) -> int:
        return int(self.text.split(maxsplit=2)[1])

    @property
    def body(self) -> bytes:
        head, _, body = self.text.partition("\r\n\r\n")
        content = body.encode("latin-1")
        return _joined(content) if "transfer-encoding: chunked" in head.lower() else content

    @property
    def question(self) -> str:
        return f"{'websocket ' if self.upgrade else ''}{self.path}"


def _joined(chunks: bytes) -> bytes:
    size, _, rest = chunks.partition(b"\r\n")
    length = int(size or b"0", 16)
    return rest[:length] + _joined(rest[length + 2 :]) if length else b""


def ports(slurm: SlurmCluster, user: User) -> list[Port]:
    """All TCP ports that the user's processes listen on, out of the kernel's own tables."""
    return [port for node in slurm.nodes for port in _ports(node, user)]


def _ports(node: Machine, user: User) -> Iterator[Port]:
    names = _owners(node, user)
    for file in ("tcp", "tcp6"):
        for line in _table(node, file):
            words = line.split()
            if words[3] == LISTENS and int(words[7]) == user.uid:
                address, _, number = words[1].partition(":")
                yield Port(node.name, _address(address), int(number, 16), names.get(words[9], "?"))


def unix_sockets(node: Machine, user: User, folders: Iterable[str]) -> list[str]:
    """The user's sockets in these folders, and the names of abstract ones that the user's processes hold, with an @."""
    root = Path(f"/proc/{node.pid}/root")
    files = (path for folder in folders for path in (root / folder.lstrip("/")).rglob("*"))
    ours = [f"/{path.relative_to(root)}" for path in files if path.is_socket() and path.lstat().st_uid == user.uid]
    names = _owners(node, user)
    lines = [line.split() for line in _table(node, "unix")]
    return ours + sorted({words[7] for words in lines if words[6] in names and words[7:] and words[7][0] == "@"})


def _table(node: Machine, name: str) -> list[str]:
    return Path(f"/proc/{node.pid}/net/{name}").read_text().splitlines()[1:]


def _address(text: str) -> str:
    """/proc/net has words of 32 bits in this host's order."""
    words = [int.from_bytes(bytes.fromhex(text[at : at + 8]), sys.byteorder) for at in range(0, len(text), 8)]
    raw = b"".join(word.to_bytes(4, "big") for word in words)
    found = ipaddress.ip_address(raw)
    return str(getattr(found, "ipv4_mapped", None) or found)


def _owners(node: Machine, user: User) -> dict[str, str]:
    """Inode of a socket -> the command that holds it."""
    found: dict[str, str] = {}
    for process in node.processes(user):
        try:
            name = " ".join(process.cmdline()).strip()[:60].rstrip()
            for each in Path(f"/proc/{process.pid}/fd").iterdir():
                if match := re.fullmatch(r"socket:\[(\d+)\]", str(each.readlink())):
                    found.setdefault(match[1], name)
        except (OSError, psutil.Error):
            continue
    return found


@dataclass(frozen=True)
class Calls:
    """What a port said to calls of gRPC without a token: method -> status, and its words."""

    port: Port
    told: Mapping[str, Sequence[str]]

    @property
    def answered(self) -> set[str]:
        """Methods that were served."""
        return {method for method, (status, _) in self.told.items() if status == "OK"}

    @property
    def codes(self) -> dict[str, str]:
        return {method: status for method, (status, _) in self.told.items()}

    @property
    def harmless(self) -> bool:
        """Whether it has methods of those tried, and lets nobody call them but those that are everybody's."""
        others = {status for method, status in self.codes.items() if method not in EVERYBODYS}
        return others in ({"UNAUTHENTICATED"}, {"UNAUTHENTICATED", "UNIMPLEMENTED"})

    def tell(self, secrets: Sequence[str]) -> list[str]:
        """Methods that said one of them."""
        return [method for method, (_, said) in self.told.items() if any(each in said for each in secrets)]


@dataclass(frozen=True)
class Visit:
    """What a stranger on one node was told by all ports that can be reached from there, and what lay open.

    tried: the sockets; sockets: those that let the stranger in. processes: path in /proc -> what it holds.
    """

    replies: list[Reply]
    calls: list[Calls]
    tried: list[str]
    sockets: list[str]
    files: list[str]
    processes: dict[str, str]

    def leaks(self, edge: tuple[str, int], secrets: Sequence[str]) -> list[str]:
        """A line for everything that a stranger should not have got."""
        told = [
            f"a secret is in {path}" for path, text in self.processes.items() if any(each in text for each in secrets)
        ]
        calls = [f"{each.port}: {each.codes}" for each in self.calls if not each.harmless]
        calls += [f"{each.port}: a secret in {method}" for each in self.calls for method in each.tell(secrets)]
        open_to_all = [f"it may be opened: {path}" for path in (*self.sockets, *self.files)]
        answers = by_port(reply for reply in self.replies if not harmless(reply, edge)).splitlines()
        return [*answers, *calls, *open_to_all, *told]


def visit(
    node: Machine, stranger: User, owner: User, found: Sequence[Port], folders: Sequence[str],
    headers: Mapping[str, str], since: float,
) -> Visit:  # fmt: skip
    """Knock at what is on the node itself, and from there at what other nodes let the network see.

    headers: what the stranger claims. since: of files, those that are older are not the service's.
    """
    targets = {(host, port.number): port for port in found for host in _hosts(node, port)}
    sockets = unix_sockets(node, owner, folders)
    wanted = {
        "tcp": list(targets), "headers": headers, "unix": sockets, "folders": folders, "owner": owner.uid,
        "since": since,
    }  # fmt: skip
    said = node.enter(sys.executable, str(KNOCK), user=stranger, text=json.dumps(wanted), timeout_s=240).stdout
    told: dict[str, Any] = json.loads(said)
    replies = [Reply(targets[host, port], path, upgrade, text) for host, port, path, upgrade, text in told["tcp"]]
    calls = [Calls(targets[host, port], each) for host, port, each in told["grpc"]]
    return Visit(replies, calls, sockets, told["unix"], told["files"], told["processes"])


def _hosts(node: Machine, port: Port) -> list[str]:
    """Where this node reaches that port."""
    here = port.node == node.name
    if ipaddress.ip_address(port.host).is_unspecified:
        return [node.room[port.node].address, *(["127.0.0.1"] if here else [])]
    return [port.host] if here or not port.on_loopback else []


def harmless(reply: Reply, edge: tuple[str, int]) -> bool:
    """Whether a stranger may have this: no HTTP, a refusal, health, or the chat page's own files at the address."""
    if not reply.is_http:
        return not re.search(WORDS, reply.text) or HTTP2_ONLY in reply.text
    if reply.status in (401, 403):
        return True
    if (reply.port.host, reply.port.number) == edge and not reply.upgrade:
        return reply.path == "/health" or reply.body == _page_file(reply.path)
    return reply.path == "/-/healthz" and reply.status == 200 and reply.body in HEALTHY


def _page_file(path: str) -> bytes | None:
    """What the page's own files hold under that path."""
    name = "index.html" if path == "/" else path.removeprefix("/static/")
    file = PAGE / name
    return file.read_bytes() if "/" not in name and file.is_file() else None


def by_port(replies: Iterable[Reply]) -> str:
    """What each port said, for a failed test; alike answers together."""
    said: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for reply in replies:
        what = f"{reply.status} {reply.body[:100]!r}" if reply.is_http else f"no HTTP {reply.text[:12]!r}"
        said[str(reply.port)][what].add(reply.question)
    lines = [
        f"{port}: {what} to {'all' if len(told) == 1 else sorted(asked)}"
        for port, told in sorted(said.items())
        for what, asked in told.items()
    ]
    return "\n".join(lines)
