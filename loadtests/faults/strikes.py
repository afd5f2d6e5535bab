"""The faults: how each part is broken, by process id, and what was on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from loadtests.faults.clock import Clock
from loadtests.faults.disk import Disk
from loadtests.faults.parts import Parts

ENDED_S = 10
HELD_S = 8
"""How long a disk is full and a clock shows another time: for several requests of each user."""
JUMPS_H = (2, 0, -1, 0)
GCS = "core/src/ray/gcs/gcs_server --"


@dataclass(frozen=True)
class Struck:
    """What was broken. `servers`: as the edge's log names where a request went; None: every request was on it.

    lasting: the fault lasted as long as the strike; what was answered meanwhile was answered in spite of it.
    """

    what: str
    servers: frozenset[str] | None = frozenset()
    lasting: bool = False


@dataclass(frozen=True)
class Fault:
    """`part` is whose requests tell whether it has recovered: a model, or the gateway."""

    name: str
    part: str
    strike: Callable[[Parts], Struck]


def kill(processes: list[psutil.Process]) -> str:
    """SIGKILL all at once, and wait until they are gone; returns who it was."""
    assert processes, "the part to kill is not there"
    named = ", ".join(f"{each.name()} {each.pid}" for each in processes)
    for each in processes:
        each.kill()
    psutil.wait_procs(processes, timeout=ENDED_S)
    return named


def _fill_the_disk(parts: Parts) -> Struck:
    """The one that the service lays down everything on."""
    disk = Disk.below(parts.run_dir)
    with disk.full():
        time.sleep(HELD_S)
    return Struck(f"{disk.folder} full for {HELD_S} s", lasting=True)


def _set_the_clock(parts: Parts) -> Struck:
    """Two hours ahead, back, an hour behind, and back."""
    clock = Clock.of(parts.state["pid"])
    right_s = clock.ahead_s
    for hours in JUMPS_H:
        clock.set(right_s + 3600 * hours)
        time.sleep(HELD_S)
    return Struck(f"clock set to {', '.join(f'{hours:+d} h' for hours in JUMPS_H)}, {HELD_S} s each", lasting=True)


@dataclass(frozen=True)
class Strikes:
    """All faults that kill one part, over a model with two replicas, or take what all parts need."""

    victim: str
    number: int = 0
    """Which of its replicas."""

    def all(self) -> list[Fault]:
        return [
            Fault("engine", self.victim, self._engine),
            Fault("replica", self.victim, self._replica),
            Fault("proxy", "gateway", self._proxy),
            Fault("gateway", "gateway", self._gateway),
            Fault("edge", self.victim, lambda parts: Struck(kill(parts.edge()), None)),
            Fault("keeper", self.victim, lambda parts: Struck(kill(parts.containing("app.access.keeper_app")))),
            Fault("controller", self.victim, lambda parts: Struck(kill(parts.containing("ray::ServeController")))),
            Fault("gcs", self.victim, lambda parts: Struck(kill(parts.containing(GCS)))),
            Fault("disk", self.victim, _fill_the_disk),
            Fault("clock", self.victim, _set_the_clock),
        ]

    @property
    def _backend(self) -> str:
        return f"model-{self.victim}"

    def _replica(self, parts: Parts) -> Struck:
        replica = parts.replicas(self._backend)[self.number]
        server = parts.slot_of(self._backend, replica)
        return Struck(kill([replica]), frozenset({server}))

    def _engine(self, parts: Parts) -> Struck:
        replica = parts.replicas(self._backend)[self.number]
        server = parts.slot_of(self._backend, replica)
        return Struck(kill(parts.engines(replica)), frozenset({server}))

    def _proxy(self, parts: Parts) -> Struck:
        """Serve's HAProxy with the actors that look after it."""
        actors = parts.containing("ray::ProxyActor", "ray::HAProxyManager")
        return Struck(kill([*parts.serves_haproxy(), *actors]), frozenset({"gateway/serve"}))

    def _gateway(self, parts: Parts) -> Struck:
        replica = parts.replicas("gateway")[0]
        server = parts.slot_of("gateway", replica)
        return Struck(kill([replica]), frozenset({server or "gateway/serve"}))
