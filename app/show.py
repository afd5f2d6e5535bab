"""What commands print: aligned tables on standard output, errors as one line on standard error."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from app.access.place import is_loopback
from app.fit import gib
from app.launch import SETTLED, Progress
from app.plan import Allocation, Plan
from app.state import ServiceState
from deployments.status import ModelState, ModelStatus

COLOURS = {
    ModelState.READY: "green",
    ModelState.IDLE: "cyan",
    ModelState.STARTING: "yellow",
    ModelState.STOPPING: "yellow",
    ModelState.FAILED: "red",
}


def print_json(value: Any, *, compact: bool = False) -> None:
    sys.stdout.write(json.dumps(value, indent=None if compact else 2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_error(message: str) -> None:
    """The whole message on one line."""
    sys.stderr.write("corral: " + " ".join(message.split()) + "\n")


class LiveBoard:
    """Something that is shown anew on a terminal, and in a line for each change elsewhere."""

    def __init__(
        self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic, console: Console | None = None
    ) -> None:
        self._console = console or Console(stderr=True, quiet=quiet)
        self._clock = clock
        self._began = clock()
        self._said: dict[str, str] = {}
        self._live = Live(console=self._console, transient=True) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._live.stop()


class Board(LiveBoard):
    """Live progress of a starting service."""

    def __init__(self, models: list[str], *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._models = models
        self._settled: dict[str, float] = {}

    def update(self, progress: Progress) -> None:
        for model, status in progress.models.items():
            if status.state in SETTLED:
                self._settled.setdefault(model, time.monotonic() - self._began)
            else:
                self._settled.pop(model, None)
        if self._live:
            self._live.update(self._table(progress))
        else:
            self._say(progress)

    def _table(self, progress: Progress) -> Table:
        table = Table(title=f"{progress.state.name}: {progress.state.phase}", title_justify="left", box=None)
        for column in ("model", "state", "", "seconds"):
            table.add_column(column)
        for model in self._models:
            status = progress.models.get(model, ModelStatus(model, ModelState.STARTING, phase="waiting"))
            seconds = self._settled.get(model, time.monotonic() - self._began)
            table.add_row(model, _coloured(status.state), status.phase or status.reason or "", f"{seconds:.0f}")
        return table

    def _say(self, progress: Progress) -> None:
        self._say_once("service", progress.state.phase)
        for model, status in progress.models.items():
            self._say_once(model, f"{status.state}{_detail(status)}")

    def _say_once(self, who: str, what: str) -> None:
        if self._said.get(who) != what:
            self._said[who] = what
            self._console.print(
                f"{time.monotonic() - self._began:6.1f} s  {who}: {what}", highlight=False, markup=False
            )


def _coloured(state: ModelState) -> str:
    return f"[{COLOURS[state]}]{state}[/]"


def _detail(status: ModelStatus) -> str:
    detail = status.phase or status.reason
    return f" ({detail})" if detail else ""


def status_table(progress: Progress) -> None:
    """The answer of `corral status`."""
    state = progress.state
    sys.stdout.write(f"{state.name}  {state.address}  {state.phase}  profile {state.profile}\n")
    rows = [["model", "state", "replicas", "detail"]]
    for status in progress.models.values():
        replicas = f"{status.replicas}/{status.target_replicas}"
        rows.append([status.id, str(status.state), replicas, status.phase or status.reason or ""])
    sys.stdout.write(aligned(rows))
    sys.stdout.writelines(f"{incident}\n" for incident in state.incidents)
    if state.disk_full:
        sys.stdout.write(
            f"{state.run_dir}: its disk is full, so lines of logs are lost, and what is used waits in memory to be "
            "written down; free some room there\n"
        )


def ready_message(progress: Progress, name: str) -> None:
    """The last lines of `corral up`: the address, one curl line, how to stop."""
    status_table(progress)
    ready = [model for model, status in progress.models.items() if status.state is not ModelState.FAILED]
    address = progress.state.address
    body = json.dumps({"model": ready[-1] if ready else "MODEL", "messages": [{"role": "user", "content": "Hello!"}]})
    option = "" if name == "default" else f" --name {name}"
    corral = "corral" if shutil.which("corral") else sys.argv[0]
    key = _who_may_ask(progress.state)
    trust = tls_line(progress.state.fingerprint)
    trust += f"         curl --cacert {progress.state.certificate}\n" if progress.state.certificate else ""
    bearer = ' -H "Authorization: Bearer $(cat ' + progress.state.key_file + ')"' if progress.state.key_file else ""
    sys.stdout.write(
        f"\nAddress  {address}/v1  (any OpenAI client; docs at {address}/docs)\n"
        f"{key}{trust}"
        f"Try      curl -s {address}/v1/chat/completions{bearer} -H 'Content-Type: application/json' -d '{body}'\n"
        f"Chat     {corral} chat{option}\n"
        f"Stop     {corral} down{option}\n"
    )


def tls_line(fingerprint: str) -> str:
    """What the certificate of the address is known by; empty without TLS."""
    return f"TLS      {fingerprint} (SHA-256)\n" if fingerprint else ""


def _who_may_ask(state: ServiceState) -> str:
    """Where no key is asked for, people have to hear that nothing keeps others out."""
    if state.key_file:
        return f"Key      $(cat {state.key_file})\n"
    host = state.address.partition("://")[2].rpartition(":")[0]
    others = "any user of this machine" if is_loopback(host) else "whoever reaches this address"
    return f"Keys     none: {others} can use the service; `access: {{keys: required}}` in the profile asks for keys\n"


def plan_table(plan: Plan) -> None:
    """The answer of `corral plan`."""
    rows = plan.rows()
    sys.stdout.write(aligned([list(rows[0]), *(list(row.values()) for row in rows)]))
    for allocation in plan.allocations:
        sys.stdout.write(f"\n{_allocation(allocation)}")
    sys.stdout.write("".join(f"\nnote: {note}" for note in plan.notes) + "\n")


def _allocation(need: Allocation) -> str:
    """What to ask the batch system for."""
    if need.least_gpus:
        return (
            f"{need.device}: {need.least_gpus} GPUs on {need.least_nodes} nodes to serve every model, "
            f"{need.peak_gpus} on {need.peak_nodes} with every replica up; {need.peak_cpus:g} CPUs"
        )
    return (
        f"{need.device}: {gib(need.least_memory)} of memory to serve every model, "
        f"{gib(need.peak_memory)} with every replica up; {need.peak_cpus:g} logical CPUs"
    )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines with every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(line.rstrip() + "\n" for line in lines)
