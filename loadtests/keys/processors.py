"""The processor time of a service's own processes: client, service and whoever else is there share the machine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import psutil

Computed = Mapping[int, tuple[str, float]]
"""Process id -> its name and the seconds that it has computed so far."""
WORTH_TELLING = 0.02


def computed_by(pid: int) -> Computed:
    """The process and all below it."""
    root, found = psutil.Process(pid), dict[int, tuple[str, float]]()
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.Error):  # it has ended meanwhile
            times = process.cpu_times()
            found[process.pid] = shown(process.cmdline()) or process.name(), times.user + times.system
    return found


def shown(command: list[str]) -> str:
    """What tells a process from others, in few words: its module, the name that it gave itself, else its file."""
    words = [word for word in command if word]
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    return " ".join(words[:1]).rpartition("/")[2]


def spent_s(before: Computed, after: Computed) -> dict[str, float]:
    """Name -> seconds in between, the dearest first. What began meanwhile began at nothing."""
    found = dict[str, float]()
    for pid, (name, seconds) in after.items():
        found[name] = found.get(name, 0.0) + seconds - (before[pid][1] if pid in before else 0.0)
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def by_process(*costs_ms: Mapping[str, float]) -> str:
    """Each process that is worth telling in one of them, and what it is in each."""
    worth = [name for costs in costs_ms for name, cost in costs.items() if cost >= WORTH_TELLING * sum(costs.values())]
    told = {name: " ".join(f"{costs.get(name, 0.0):.1f}" for costs in costs_ms) for name in worth}
    return ", ".join(f"{name} {figures}" for name, figures in told.items())
