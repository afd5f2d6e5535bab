"""The timeline of a job: what happened when, start by start.

Lines are `<unix seconds> <event> <who>`, see `JobFolder.timeline`. Several machines append to the file, so lines may
be torn, doubled, or out of order by as much as clocks differ.
"""

from __future__ import annotations

import os
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from slurm.timeline_costs import STAGES, Costs, Mark, Span, between, earlier, model_costs, spent_by_part

SKEW_S = 1.0
"""The clocks of a cluster differ by less."""

OF_MODELS = frozenset({*STAGES, "ready", "failed"})
NOT_BEFORE_A_START = frozenset({"job started", "step ended", "node lost", "drain", "requeued"})

_LINE = re.compile(r"([0-9]{1,10}\.[0-9]{3}) ([A-Za-z][A-Za-z-]*(?: [A-Za-z-]+)*) ([^\s\x00-\x1f\x7f]+)")


@dataclass(frozen=True)
class Event:
    """at: unix seconds, by the clock of the machine that wrote it. who: a node, a model, a host, or `-`."""

    at: float
    what: str
    who: str


@dataclass(frozen=True)
class Start:
    """One start of the job, with its later life. `queued_at` is None if the submission was not written."""

    events: tuple[Event, ...]
    queued_at: float | None
    restarts: int = 0

    @cached_property
    def zero(self) -> float:
        """The unix time from which this start is told: its submission, or the first event."""
        first = self.events[0].at
        return first if self.queued_at is None else min(first, self.queued_at)

    @cached_property
    def ready_at(self) -> float | None:
        return next((event.at for event in self.events if event.what == "service ready"), None)

    @cached_property
    def starting(self) -> tuple[Event, ...]:
        """The events until the service was ready: without its later life."""
        ready = self.ready_at
        return self.events if ready is None else tuple(each for each in self.events if each.at < ready + SKEW_S)

    @cached_property
    def head(self) -> str:
        """The node of Ray's head; before that is up, the one whose step was started first."""
        known = {each.what: each.who for each in reversed(self.events)}
        return known.get("head started") or known.get("step started") or self.events[0].who

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.who for each in self.starting if each.what in OF_MODELS))

    def first(self, what: str, who: str | None = None) -> float | None:
        """When it happened first until the service was ready; None if it did not."""
        return next((each.at for each in self.starting if each.what == what and who in (None, each.who)), None)

    def up(self, node: str) -> float | None:
        """When Ray was up on that node."""
        return self.first("head started") if node == self.head else self.first("node joined", node)

    def arrival(self, node: str, *, needed: bool = False) -> list[Mark]:
        """How that node came up, until its Ray."""
        up, shell, copied = self.up(node), self.first("shell started", node), self.first("weights copied", node)
        waited = copied is not None and (up is None or copied <= up)
        return [
            Mark("slurm", self.first("step started", node), needed),
            Mark("slurm", shell, needed and shell is not None),
            Mark("container_and_python", self.first("agent started", node), needed),
            Mark("copy", copied if waited else None, needed and waited),
        ]

    def model_spans(self, model: str) -> list[Span]:
        """The stages as they came; the last is `ready` (once it was), or without an end."""
        mine = [each for each in self.starting if each.who == model and each.what in OF_MODELS]
        last = next((index for index, each in enumerate(mine) if each.what == "ready"), len(mine) - 1)
        ends = [*(each.at for each in mine[1 : last + 1]), None]
        return [Span(each.what, each.at, end) for each, end in zip(mine, ends, strict=False)]

    def costs(self) -> Costs:
        spent = spent_by_part(self.queued_at, self._path())
        total = between(self.queued_at, self.ready_at)
        token = next((each.at for each in self.events if each.what == "first token"), None)
        parts = {each.name: spent.get(each.name) for each in fields(Costs) if each.name != "models"}
        parts["other"] = None if total is None else max(0.0, total - sum(each or 0.0 for each in spent.values()))
        parts |= {"total": total, "first_token": between(self.ready_at, token)}
        return Costs(**parts, models={each: model_costs(self.model_spans(each)) for each in self.models})

    def _path(self) -> list[Mark]:
        """What the start waited for, in order."""
        process, deployed, edge = (self.first(each) for each in ("process", "deployed", "edge started"))
        given = process if deployed is None else earlier(deployed, process)  # a fast model is ahead of the deployer
        copied = [each.at for each in self.starting if each.what == "weights copied"]
        ready = [each.begins for model in self.models for each in self.model_spans(model) if each.what == "ready"]
        path = [
            Mark("queue", self.first("job started"), True),
            *self.arrival(self.head, needed=True),
            Mark("ray_head", self.first("head started"), True),
            *self._last_node(given),
            Mark("copy", max((at for at in copied if process is None or at <= process), default=None)),
            Mark("edge", None if edge is None or given is None or edge > given else edge),
            Mark("serve", given, given is not None),
            Mark("serve", process, True),
            Mark("engine", max(ready, default=None), True),
            Mark("edge", edge),
        ]
        return [each._replace(at=earlier(each.at, self.ready_at)) for each in path]

    def _last_node(self, deployed: float | None) -> list[Mark]:
        """How the last node came of those that had joined by the deployment, each for the first time."""
        joined: dict[str, float] = {}
        for event in self.starting:
            if event.what == "node joined" and (deployed is None or event.at < deployed + SKEW_S):
                joined.setdefault(event.who, event.at)
        if not joined:
            return []
        node, at = list(joined.items())[-1]
        return [*([] if node == self.head else self.arrival(node)), Mark("ray_nodes", earlier(at, deployed), True)]


def parse_timeline(text: str) -> list[Event]:
    """The events by their times, each once. What cannot be read is skipped, as is a last line without its end.

    A torn line may end within a character: read the file with errors="replace".
    """
    found = (_LINE.fullmatch(line) for line in text.split("\n")[:-1])
    events = dict.fromkeys(Event(float(each[1]), each[2], each[3]) for each in found if each)
    return sorted(events, key=lambda event: event.at)


def append(path: Path, what: str, who: str, clock: Callable[[], float] = time.time) -> None:
    """One line, with one write. ValueError for what could not be read again; OSError, as of a full disk."""
    line = f"{clock():.3f} {what} {who}"
    read = _LINE.fullmatch(line)
    if not read or read[2] != what:
        raise ValueError(f"{line!r} is no line of a timeline: an event of plain words, and a name without spaces")
    written = f"{line}\n".encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, written)
    finally:
        os.close(file)


def starts(events: Iterable[Event]) -> list[Start]:
    """One for each `job started`, in order. The submission is of the first; later ones wait from the last event on."""
    ordered = sorted(events, key=lambda event: event.at)
    begun = sorted({each.at for each in ordered if each.what == "job started"})
    shares: list[list[Event]] = [[] for _ in begun]
    for event in ordered if begun else ():
        shares[_share(event, begun)].append(event)
    submitted = next((each.at for each in ordered if each.what == "submitted"), None)
    queued = [submitted, *(share[-1].at for share in shares)]
    return [
        Start(tuple(share), earlier(since, at), restarts)
        for restarts, (share, since, at) in enumerate(zip(shares, queued, begun, strict=False))
    ]


def _share(event: Event, begun: Sequence[float]) -> int:
    """The start to which an event belongs; what a slower clock put just before a start is of that start."""
    if event.what == "submitted":
        return 0
    return max(0, bisect_right(begun, event.at + (0.0 if event.what in NOT_BEFORE_A_START else SKEW_S)) - 1)


def table(start: Start) -> list[list[str]]:
    """A heading, then each event: seconds since `Start.zero`, seconds since the row above, event, who."""
    before = [start.zero, *(event.at for event in start.events)]
    rows = [
        [f"{event.at - start.zero:9.3f}", f"{event.at - above:9.3f}", event.what, event.who]
        for event, above in zip(start.events, before, strict=False)
    ]
    return [["  seconds", "     span", "event", "who"], *rows]


def to_json(start: Start) -> dict[str, Any]:
    """restarts, queued_at (unix seconds), events (also in seconds since `Start.zero`), and costs with `overhead`."""
    costs = start.costs()
    events = [{**asdict(each), "seconds": round(each.at - start.zero, 3)} for each in start.events]
    told = {**asdict(costs), "overhead": costs.overhead}
    return {"restarts": start.restarts, "queued_at": start.queued_at, "events": events, "costs": _rounded(told)}


def _rounded(value: Any) -> Any:
    """To milliseconds, which is what the file has."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return round(value, 3) if isinstance(value, float) else value
