"""What the edge HAProxy is told: EdgeSpec (fixed) and EdgeState (changes at runtime) -> its configuration and its maps.

A request for a model goes to the backend `model-<base id>`: slots for replicas, filled at runtime, and Ray Serve's own
address as the backup. Everything else goes to the gateway application at the same address of Serve.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from app.access.edge_lines import LINE_BYTES
from deployments.errors import FULL_MS

if TYPE_CHECKING:
    from jinja2 import Template

MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
DEPLOYED_ID = re.compile(rf"{MODEL_ID.pattern}(:[0-9]{{1,9}})?")
HOST = re.compile(r"[A-Za-z0-9.*:_-]*")
ADDRESS = re.compile(r"[A-Za-z0-9._:-]+:[0-9]{1,5}")
IDS = r"[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"
TRACEPARENT = rf"^(00-{IDS}|(0[1-9a-f]|[1-9a-e][0-9a-f]|f[0-9a-e])-{IDS}(-.*)?)$"
"""W3C's header as HAProxy reads it: of versions to come what is known of them. Ids of zeros alone are left to it."""
URL_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
KEY_ID = re.compile(r"[a-z0-9]{1,32}")
HEX = re.compile(r"[0-9a-f]+")
UNUSED = "127.0.0.1:9"
"""Where a free slot points to; it is in maintenance, so nothing ever connects there."""

SPARE_FILES = 1024
"""Of HAProxy's open files, those that are never for clients: for replicas, checks, and itself."""

Address = tuple[str, int]


@dataclass(frozen=True)
class ModelLimits:
    """Bounds of one base model: requests in flight in each replica, and how many may wait for one (None: no bound).

    With a bound a request that waits longer than the queue timeout, or finds the queue full, is answered 429.
    Serve's own address, which stands for all replicas, takes `replicas` times as many.
    """

    replicas: int = 16
    in_flight: int | None = None
    queue: int | None = None

    def __post_init__(self) -> None:
        if self.queue is not None and self.in_flight is None:
            raise ValueError("a queue forms only where in_flight is bounded: set in_flight as well")


@dataclass(frozen=True)
class EdgeKey:
    """What the edge knows of an API key: enough to tell whether it was given, and how many requests it may have open.

    digest: SHA-256 of the salt's text and the key's, lower-case hex. concurrent, group_concurrent: 0 for no bound.
    group: the key's own id where it has none. old: the key before a rotation, which is taken beside the new one.
    """

    id: str
    salt: str
    digest: str
    concurrent: int = 0
    group: str = ""
    group_concurrent: int = 0
    old: bool = False

    def __post_init__(self) -> None:
        _match(KEY_ID, self.id, "a key's id")
        _match(HEX, self.salt, "a salt")
        _match(HEX, self.digest, "a digest")
        _match(MODEL_ID, self.group or self.id, "a group")

    @property
    def entry(self) -> tuple[str, str]:
        """Key and value of HAProxy's map; its converter writes hex in capitals."""
        limits = f"{self.concurrent}:{self.group or self.id}:{self.group_concurrent}"
        return f"{self.id}{'.old' * self.old}", f"{self.salt}:{self.digest.upper()}:{limits}"


@dataclass(frozen=True)
class EdgeSpec:
    """The edge as a profile fixes it. Sizes are bytes, durations seconds; `models` is (served id, base) pairs.

    A base is a model's id, and behind a colon its generation where it has been replaced. `spare` are bases that have
    a backend though no served id leads there (yet).

    `bufsize` bounds the body whose `model` is surely found; of a longer one only the head is looked at.
    Bodies without a length are bounded by who reads them. Raises ValueError for what HAProxy could misread.
    """

    host: str
    port: int
    workdir: Path
    serve_address: str
    models: tuple[tuple[str, str], ...]
    spare: tuple[str, ...] = ()
    limits: Mapping[str, ModelLimits] = field(default_factory=dict)
    max_connections: int = 16_384
    threads: int = 1
    bufsize: int = 512 << 10
    max_body: int = 8 << 20
    bulk_max_body: int = 64 << 20
    upload_max_body: int = 256 << 20
    connect_timeout_s: float = 5
    queue_timeout_s: float = 30
    idle_timeout_s: float = 600
    request_timeout_s: float = 30
    deadline_grace_s: float = 1
    """After a request's own deadline, for whoever serves it to say so; then the edge does."""
    drain_s: float = 600
    retry_after_s: int = 5
    health_path: str | None = "/-/healthz"
    gateway_paths: tuple[str, ...] = (
        "/v1/models", "/v1/tribunal", "/v1/rag", "/v1/load_lora_adapter", "/v1/unload_lora_adapter",
    )  # fmt: skip
    """Paths under /v1 that are never a model's, whatever their body says."""
    tls_cert: Path | None = None
    secret: str | None = None
    """Sent to the gateway and the replicas, which let in nobody else."""
    keeper: bool = False
    """The keeper listens in `workdir`: it is told of the end of each request, and answers /v1/usage."""
    most_per_second: int = 500
    """Requests of one key, whatever they are; more are refused before anyone is asked."""
    admission: bool = False
    """Keys are asked for, and the keeper is asked about each request."""
    keeper_wait_s: float = 5
    """For a keeper that is away: one that was killed has started again by then."""
    sample: float | None = None
    """Part of the requests that is traced, where their clients do not say so; None where nothing is traced."""
    gateway_replicas: int = 0
    """How many of the gateway's replicas requests may go straight to; Serve's address stands in for them."""
    fresh_connections: bool = False
    """Replicas are on other nodes, which can die: no request goes over a connection that was used before."""

    def __post_init__(self) -> None:
        for served, _ in self.models:
            _match(MODEL_ID, served, "a model id")
        for base in self.bases:
            _match(DEPLOYED_ID, base, "a model id")
        _match(HOST, self.host, "host")
        _match(ADDRESS, self.serve_address, "serve_address")
        for path in (*self.gateway_paths, *((self.health_path,) if self.health_path else ())):
            _match(URL_PATH, path, "a path")
        if self.admission and not self.keeper:
            raise ValueError("only a keeper can admit requests: set keeper as well")
        if self.sample is not None and not 0 <= self.sample <= 1:
            raise ValueError(f"sample must be from 0 to 1, got {self.sample}")
        if self.secret:
            _match(HEX, self.secret, "secret")
        if self.tls_cert and not re.fullmatch(r"[^\"\\$\n]+", str(self.tls_cert)):
            raise ValueError(f'tls_cert must not contain " \\ $ or a line break: {str(self.tls_cert)!r}')

    @property
    def bases(self) -> tuple[str, ...]:
        """The bases, each once, in order."""
        return tuple(dict.fromkeys((*(base for _, base in self.models), *self.spare)))

    def limits_of(self, base: str) -> ModelLimits:
        return self.limits.get(base, ModelLimits())


class EdgeMode(StrEnum):
    """What becomes of new requests; those under way go on in every mode."""

    OPEN = "open"
    DRAINING = "draining"
    """All is served, and /ready says that it ends soon."""
    CLOSED = "closed"
    """Only /health, /metrics and /ready are answered, the last as in DRAINING."""
    MOVED = "moved"
    """All goes to the successor, /ready as well."""


@dataclass(frozen=True)
class EdgeState:
    """What changes while the edge runs: which served ids it does not route, each slot's replica by base id, mode."""

    unrouted: frozenset[str] = frozenset()
    slots: Mapping[str, tuple[Address | None, ...]] = field(default_factory=dict)
    mode: EdgeMode = EdgeMode.OPEN
    successor: Address | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    """Entries of EdgeKeys."""
    gateway: tuple[Address | None, ...] = ()
    """The gateway's replicas, in their slots."""

    def kept_for(self, spec: EdgeSpec) -> EdgeState:
        """The part of this state that `spec` still has a place for."""
        slots = {
            base: tuple(self.slots[base][: spec.limits_of(base).replicas]) for base in spec.bases if base in self.slots
        }
        unrouted = self.unrouted & {served for served, _ in spec.models}
        return replace(self, unrouted=unrouted, slots=slots, gateway=self.gateway[: spec.gateway_replicas])


@dataclass(frozen=True)
class _Slot:
    name: str
    address: str
    used: bool


@dataclass(frozen=True)
class _Model:
    base: str
    limits: ModelLimits
    slots: tuple[_Slot, ...]

    @property
    def id(self) -> str:
        """As people know it."""
        return self.base.partition(":")[0]


def render(
    spec: EdgeSpec,
    state: EdgeState | None = None,
    most_files: int | None = None,
    listener: int | None = None,
    lines: int | None = None,
) -> str:
    """The HAProxy configuration. most_files: that the process may have open, if there is a bound.

    listener: the file descriptor of a socket that listens already. lines: that of the keeper's pipe.
    """
    state = state or EdgeState()
    models = [_model(spec, state, base) for base in spec.bases]
    successor = literal(state.successor) if state.successor else UNUSED
    gateway = _slots(state.gateway, spec.gateway_replicas)
    files = 2 * spec.max_connections + SPARE_FILES
    files = files if most_files is None else min(files, most_files)
    connections = max(1, min(spec.max_connections, files - SPARE_FILES))
    return _template().render(
        spec=spec,
        listener=f"{spec.host}:{spec.port}" if listener is None else f"fd@{listener}",
        connections=connections,
        files=files,
        models=models,
        gateway=gateway,
        successor=successor,
        traceparent=TRACEPARENT,
        lines=lines,
        line_bytes=LINE_BYTES,
        idle_ms=round(spec.idle_timeout_s * 1000),
        grace_ms=round(spec.deadline_grace_s * 1000),
        full_ms=FULL_MS,
        ms=_milliseconds,
    )


def render_map(spec: EdgeSpec, state: EdgeState | None = None) -> str:
    """The map of served id to base id, one line each, of those that are routed."""
    unrouted = state.unrouted if state else frozenset()
    return "".join(f"{served} {base}\n" for served, base in spec.models if served not in unrouted)


def render_keys(state: EdgeState | None = None) -> str:
    """The map of the keys that are taken."""
    return "".join(f"{key} {value}\n" for key, value in (state.keys if state else {}).items())


def render_flags(state: EdgeState | None = None) -> str:
    """The map of all flags: the mode, and whether every answer closes its connection."""
    return f"mode {(state or EdgeState()).mode}\nclosing no\n"


def placed(old: tuple[Address | None, ...], wanted: list[Address], size: int) -> tuple[Address | None, ...]:
    """Give each wanted replica a slot; one that has a slot keeps it, and those past `size` get none."""
    kept = [address if address in wanted else None for address in (*old, *[None] * size)[:size]]
    new = iter([address for address in dict.fromkeys(wanted) if address not in kept])
    return tuple(address or next(new, None) for address in kept)


def slot_name(index: int) -> str:
    return f"r{index + 1}"


def _model(spec: EdgeSpec, state: EdgeState, base: str) -> _Model:
    limits = spec.limits_of(base)
    return _Model(base, limits, _slots(state.slots.get(base, ()), limits.replicas))


def _slots(filled: tuple[Address | None, ...], size: int) -> tuple[_Slot, ...]:
    return tuple(
        _Slot(slot_name(index), literal(address) if address else UNUSED, address is not None)
        for index, address in enumerate((*filled, *[None] * size)[:size])
    )


def literal(address: Address) -> str:
    """An address as a server line takes it. Raises ValueError if it is not an IP address and a port."""
    ip = ipaddress.ip_address(address[0])
    if not 0 < address[1] < 1 << 16:  # HAProxy would take the rest of a division
        raise ValueError(f"a port must be from 1 to 65535, got {address[1]}")
    return f"ipv{ip.version}@{ip}:{address[1]}"


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def _match(pattern: re.Pattern[str], value: str, what: str) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{what} must match {pattern.pattern}, got {value!r}")


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined  # the keeper, which is to start fast, needs none of it

    text = Path(__file__).with_name("haproxy.cfg.j2").read_text()
    # What comes out is no HTML, and everything that goes in was matched against a pattern.
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701
    return environment.from_string(text)
