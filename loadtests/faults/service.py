"""The service that is broken: a Corral of its own over two pocket models, and whether all of it is there."""

from __future__ import annotations

import json
import os
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from loadtests.faults.asks import Ask, bulk, generate, models, stream, tribunal, whole
from loadtests.faults.clock import Clock
from loadtests.faults.disk import Disk
from loadtests.faults.parts import Parts, title
from loadtests.servers import corral_service

VICTIM, BYSTANDER = "pocket-1b", "pocket-3b"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
ANSWER_S = 5
RUN_VARIABLE = "CORRAL_RUN_DIR"
KINDS = ("ray::ServeReplica:", "EngineCore", "haproxy.cfg", "keeper_app", "ray::ServeController", "ray::ProxyActor",
         "ray::HAProxyManager", "core/src/ray/gcs/gcs_server --", "raylet/raylet --")  # fmt: skip
"""What the processes of its parts have in their titles."""
HAPROXIES = 2
"""The edge and Serve's; when Serve's takes other routes, the one before it lives on for a while."""


def profile(folder: Path, gateways: int = 2) -> dict[str, Any]:
    """One model with two replicas, one beside it that nothing is done to; keys are asked for, so the keeper counts."""
    return {
        "extends": "pocket",
        "gateway": {"replicas": gateways},
        "access": {"keys": "required", "file": str(folder / "keys" / "keys.json")},
        "models": {
            VICTIM: {"autoscaling": {"min_replicas": 2, "max_replicas": 2, "initial_replicas": 2}},
            "pocket-8b": None,
            "pocket-70b": None,
        },
        "tribunals": {
            "default": {"members": [VICTIM, BYSTANDER], "chair": BYSTANDER}, "refine": {"members": [BYSTANDER]},
        },
        "rag": {"folder": str(folder / "rag")},
    }  # fmt: skip


USERS: tuple[tuple[Ask, ...], ...] = (
    (stream(VICTIM),), (stream(VICTIM),), (whole(VICTIM),), (whole(BYSTANDER), stream(BYSTANDER)),
    (models(), bulk(VICTIM), tribunal("tribunal", 16), bulk(BYSTANDER)),
)  # fmt: skip
"""Each user's requests, in turn."""
CALLERS: tuple[tuple[Ask, ...], ...] = (
    *((bulk(VICTIM, 256),) for _ in range(2)), (tribunal("tribunal", 16),), *((generate(VICTIM),) for _ in range(4)),
)  # fmt: skip
"""Users whose requests the gateway and the tribunal ask over handles: some are on each replica most of the time."""


@dataclass
class Whole:
    """Tells whether as many parts are there as when it was made, and answer."""

    parts: Parts
    _before: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        self._before = self._processes()
        self._before["haproxy.cfg"] = min(self._before["haproxy.cfg"], HAPROXIES)

    def __call__(self) -> bool:
        return not self.lacks()

    def lacks(self) -> str:
        """What is not there, in words; empty if nothing is lacking."""
        try:
            return self._lacking_processes() or self._lacking_servers() or self._lacking_replicas()
        except (OSError, ValueError, KeyError, StopIteration, psutil.Error) as error:  # a part is just coming or going
            return f"an answer: {error!r}"

    def _lacking_processes(self) -> str:
        now = self._processes()
        return ", ".join(f"{count - now[kind]} of {count} {kind}"
                         for kind, count in self._before.items() if now[kind] < count)  # fmt: skip

    def _lacking_servers(self) -> str:
        slots, held = self.parts.slots(f"model-{VICTIM}"), self._held()
        down = [slot.name for slot in slots if not slot.up]
        if not down and {slot.name for slot in slots} == held:
            return ""
        named = ", ".join(f"{slot.name} at port {slot.port}" for slot in slots)
        return f"a replica behind each of the edge's servers: it has {named}; held {held}; down {down}"

    def _processes(self) -> Counter[str]:
        titles = [title(each) for each in self.parts.processes()]
        return Counter(kind for text in titles for kind in KINDS if kind in text)

    def _held(self) -> set[str]:
        """The edge's servers behind which a replica listens."""
        return {self.parts.slot_of(f"model-{VICTIM}", each) for each in self.parts.replicas(f"model-{VICTIM}")}

    def _lacking_replicas(self) -> str:
        request = urllib.request.Request(f"{self.parts.state['address']}/ready", headers=self.parts.headers)
        with DIRECT.open(request, timeout=ANSWER_S) as answer:
            told = json.load(answer)
        short = {name: each for name, each in told["models"].items() if each["replicas"] < each["target_replicas"]}
        return f"replicas that are ready: {short}" if short else ""


def surroundings(disk: Disk | None, clock: Clock | None) -> dict[str, str]:
    """The environment of a service whose disk may be filled and whose clock may be set."""
    return {**({RUN_VARIABLE: str(disk.folder)} if disk else {}), **(clock.environment if clock else {})}


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """What is started meanwhile has this, too."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def running(folder: Path, gateways: int, disk: Disk | None = None, clock: Clock | None = None) -> Iterator[Parts]:
    """The service, in a state folder of its own; with all that it writes on that disk, and by that clock."""
    place = disk.folder if disk else folder
    path, state = folder / "faults.yaml", place / "state"
    path.write_text(json.dumps(profile(place, gateways)))
    state.mkdir(exist_ok=True)
    os.environ["CORRAL_STATE_DIR"] = str(state)
    with ExitStack() as running:
        with _environment(surroundings(disk, clock)):
            running.enter_context(corral_service(str(path)))
        (file,) = [each for each in state.glob("*.json") if "pid" in json.loads(each.read_text())]
        yield Parts(file)
