"""The service that is broken: a Corral of its own over two pocket models, and whether all of it is there."""

from __future__ import annotations

import json
import os
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from loadtests.faults.asks import Ask, bulk, models, stream, tribunal, whole
from loadtests.faults.parts import Parts, title
from loadtests.servers import corral_service

VICTIM, BYSTANDER = "pocket-1b", "pocket-3b"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
ANSWER_S = 5
KINDS = ("ray::ServeReplica:", "EngineCore", "haproxy.cfg", "keeper_app", "ray::ServeController", "ray::ProxyActor",
         "ray::HAProxyManager", "core/src/ray/gcs/gcs_server --", "raylet/raylet --")  # fmt: skip
"""What the processes of its parts have in their titles."""


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


@dataclass
class Whole:
    """Tells whether as many parts are there as when it was made, and answer."""

    parts: Parts
    _before: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        self._before = self._processes()

    def __call__(self) -> bool:
        try:
            now = self._processes()
            slots = self.parts.slots(f"model-{VICTIM}")
            return (
                all(now[kind] >= count for kind, count in self._before.items())
                and all(slot.up for slot in slots)
                and {slot.name for slot in slots} == self._held()
                and self._ready()
            )
        except (OSError, ValueError, KeyError, StopIteration, psutil.Error):  # a part is just coming or going
            return False

    def _processes(self) -> Counter[str]:
        titles = [title(each) for each in self.parts.processes()]
        return Counter(kind for text in titles for kind in KINDS if kind in text)

    def _held(self) -> set[str]:
        """The edge's servers behind which a replica listens."""
        return {self.parts.slot_of(f"model-{VICTIM}", each) for each in self.parts.replicas(f"model-{VICTIM}")}

    def _ready(self) -> bool:
        request = urllib.request.Request(f"{self.parts.state['address']}/ready", headers=self.parts.headers)
        with DIRECT.open(request, timeout=ANSWER_S) as answer:
            told = json.load(answer)
        return all(each["replicas"] >= each["target_replicas"] for each in told["models"].values())


@contextmanager
def running(folder: Path, gateways: int) -> Iterator[Parts]:
    """The service, in a state folder of its own."""
    path, state = folder / "faults.yaml", folder / "state"
    path.write_text(json.dumps(profile(folder, gateways)))
    state.mkdir(exist_ok=True)
    os.environ["CORRAL_STATE_DIR"] = str(state)
    with corral_service(str(path)):
        (file,) = [each for each in state.glob("*.json") if "pid" in json.loads(each.read_text())]
        yield Parts(file)
