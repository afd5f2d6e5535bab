"""The load that one process puts on an endpoint: what its users share, and a seat for each of them."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from loadtests.client.endpoint import EndpointError, address
from loadtests.client.prompts import Prompt, Workload, WorkloadError
from loadtests.records import Kind, Sample
from loadtests.swarm.answers import Whole
from loadtests.swarm.asker import Asker, Within
from loadtests.swarm.errors import OptionError
from loadtests.swarm.questions import Asking
from loadtests.swarm.settings import Found, Settings
from loadtests.swarm.tally import Tally
from loadtests.swarm.traffic import Traffic
from loadtests.swarm.wire import Place, Wire

log = logging.getLogger("corral.swarm")
OF_A_WORKER = 1_000_000
"""Prompts that a worker has before it repeats another's."""
PAUSE_S = 1.0
"""After a fault, so that a dead endpoint is not asked as fast as it refuses."""


@dataclass(frozen=True)
class Waiting:
    """How a process waits: within a bound of seconds, and for some."""

    within: Within
    sleep: Callable[[float], object]


class Prompts:
    """The prompts of one kind in one process, in order; no other worker of the run has the same ones."""

    def __init__(self, workload: Workload, worker: int) -> None:
        self._workload, self._next = workload, max(0, worker) * OF_A_WORKER

    def __call__(self) -> Prompt:
        index, self._next = self._next, self._next + 1
        return self._workload.prompt(index)


class Load:
    """One load, from its begin to its end."""

    def __init__(
        self, settings: Settings, found: Found, place: Place, worker: int, tally: Tally, waiting: Waiting
    ) -> None:
        self.settings, self.tally = settings, tally
        self.traffic = Traffic(tally.cut)
        self._found, self._place, self._worker, self._waiting = found, place, worker, waiting
        self._prompts: dict[Kind, Prompts] = {}
        self._told: set[tuple[Kind, str]] = set()
        self._seats = 0

    def seat(self, kind: Kind) -> Seat:
        """For a new user. Raises OptionError if there is no workload for it here."""
        self._seats += 1
        asking = Asking(self.settings, self._found, kind)
        try:
            prompts = self._prompts.setdefault(kind, Prompts(asking.workload(), self._worker))
        except WorkloadError as error:
            raise OptionError(str(error)) from None
        asker = Asker(Wire(self._place), self._waiting.within, self.settings.timeout_s)
        dice = random.Random(f"{self.settings.seed}/{self._worker}/{self._seats}")
        return Seat(self, asking, prompts, asker, dice)

    def ended(self, kind: Kind, sample: Sample) -> None:
        """Counts it. The first fault of each sort is told in its own words, and what follows one waits a little."""
        self.tally.record(kind, sample)
        if sample.fault is None:
            return
        if (kind, sample.fault) not in self._told:
            self._told.add((kind, sample.fault))
            log.warning("%s: first %s: %s", kind, sample.fault, sample.detail)
        self._waiting.sleep(PAUSE_S)


class Seat:
    """One user's place in a load: its connection, its prompts, its dice."""

    def __init__(self, load: Load, asking: Asking, prompts: Prompts, asker: Asker, dice: random.Random) -> None:
        self._load, self._asking, self._prompts, self._asker, self._dice = load, asking, prompts, asker, dice

    def ask(self) -> bool:
        """Ask the next question and count what comes of it; False: the load is over."""
        load, kind = self._load, self._asking.kind
        if not load.traffic.open:
            return False
        question, began = self._asking.question(self._prompts), time.perf_counter()
        with load.traffic.request(kind, lambda: time.perf_counter() - max([began, *question.answer.times[-1:]])):
            sample = self._asker.ask(question)
        if isinstance(question.answer, Whole) and question.answer.declined:
            load.tally.declined(kind)
        load.ended(kind, sample)
        return True

    def think_s(self) -> float:
        """How long to wait for the next question."""
        return self._load.settings.think.draw(self._dice)

    def leave(self) -> None:
        self._asker.close()


def place_of(url: str | None, key: str | None) -> Place:
    """Raises OptionError for what is no address."""
    try:
        return Place.of(address(url or ""), key)
    except EndpointError as error:
        raise OptionError(f"host: {error}") from None
