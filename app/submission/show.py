"""What the `corral slurm` commands print of a job: live while it starts, and at rest."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.show import COLOURS, LiveBoard, aligned, tls_line
from app.submission.connect import own_key, ways
from app.submission.look import Look, change_at
from deployments.status import ModelState
from slurm.walltime import format_walltime

SILENT = "SLURM's controller does not answer; still following through the shared folder"
NODE_COLOURS = {"joined": "green", "waiting": "yellow", "lost": "red", "failed": "red"}


class Board(LiveBoard):
    """Live progress of a job."""

    def update(self, look: Look) -> None:
        if self._live:
            self._live.update(self._table(look))
        else:
            self._say(look)

    def _table(self, look: Look) -> Group:
        title = Text(f"{self._clock() - self._began:6.0f} s  {look.name}: {job_line(look)}")
        parts: list[Text | Table] = [title, *([] if look.queued.answers else [Text(SILENT, style="yellow")])]
        if look.nodes:
            parts.append(_table("node", [(node, told["state"], _place(told)) for node, told in look.nodes.items()]))
        if look.models:
            parts.append(_table("model", [(name, str(told["state"]), _of(told)) for name, told in look.models.items()]))
        return Group(*parts)

    def _say(self, look: Look) -> None:
        if look.queued.answers and self._said.get("slurm") == SILENT:
            self._say_once("slurm", "SLURM's controller answers again")
        elif not look.queued.answers:
            self._say_once("slurm", SILENT)
        self._say_once("job", job_line(look))
        for node, told in look.nodes.items():
            self._say_once(f"node {node}", _joined(told["state"], _place(told)))
        for model, status in look.models.items():
            self._say_once(model, _joined(str(status["state"]), _of(status)))

    def _say_once(self, who: str, what: str) -> None:
        if self._said.get(who) != what:
            self._said[who] = what
            seconds = self._clock() - self._began
            self._console.print(f"{seconds:6.1f} s  {who}: {what}", highlight=False, markup=False, soft_wrap=True)


def _table(what: str, rows: list[tuple[str, str, str]]) -> Table:
    table = Table(box=None)
    for column in (what, "state", ""):
        table.add_column(column)
    for name, state, detail in rows:
        table.add_row(escape(name), f"[{_colour(state)}]{state}[/]", escape(detail))
    return table


def _colour(state: str) -> str:
    if state in NODE_COLOURS:
        return NODE_COLOURS[state]
    return COLOURS[ModelState(state)] if state in list(ModelState) else "yellow"


def job_line(look: Look) -> str:
    """The job in one line: its number and phase; where it waits, why, behind whom and until when."""
    job, place = look.job, []
    if job and job.state.waiting:
        place += [job.reason] if job.reason else []
        place += [] if look.queued.before is None else [f"{look.queued.before} before it in {job.partition}"]
        place += [] if job.starts_at is None else [f"start estimated at {_clock_time(job.starts_at)}"]
    if job and job.restarts:
        place.append(f"restart {job.restarts}")
    return _joined(f"job {look.job_id} {look.phase}", "; ".join(place))


def _clock_time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _joined(what: str, detail: str) -> str:
    return f"{what} ({detail})" if detail else what


def _place(node: Mapping[str, Any]) -> str:
    return str(node.get("detail") or "")


def _of(model: Mapping[str, Any]) -> str:
    return str(model.get("phase") or model.get("reason") or "")


def status_table(look: Look) -> None:
    """The answer of `corral slurm status`."""
    _tables(look)
    sys.stdout.write(tls_line(look.address.fingerprint) if look.address else "")


def _tables(look: Look) -> None:
    """The job in a line, then its nodes and its models."""
    status, job = look.status, look.job
    left = f"  {format_walltime(job.time_left)} left" if job and job.time_left is not None else ""
    address = look.address.url if look.address else "no address"
    sys.stdout.write(f"{look.name}  {address}  {job_line(look)}{left}\n")
    if not look.queued.answers:
        sys.stdout.write(f"{SILENT.split(';')[0]}; this is what the job itself says\n")
    for text in (status.degraded, status.successor and f"job {status.successor} takes over") if status else ():
        sys.stdout.write(f"{text}\n" if text else "")
    nodes = [[node, told.get("group", ""), told["state"], _place(told)] for node, told in look.nodes.items()]
    if nodes:
        sys.stdout.write(aligned([["node", "group", "state", "detail"], *nodes]))
    if change := change_at(look.at):
        sys.stdout.write(f"{change.sentence}\n")
    over = look.phase in ("ended", "failed")  # what was last said of the models is past, too
    models = [
        [model, str(told["state"]), f"{told.get('replicas', 0)}/{told.get('target_replicas', 0)}", _of(told)]
        for model, told in ({} if over else look.models).items()
    ]
    if models:
        sys.stdout.write(aligned([["model", "state", "replicas", "detail"], *models]))


def ready_message(look: Look) -> None:
    """The last lines of `corral slurm up`: the address, its key, one curl line, the way in, how to stop."""
    _tables(look)
    if look.address is None:
        return
    model = look.answering[-1] if look.answering else "MODEL"
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}]})
    url, option = look.address.url, "" if look.name == "default" else f" --name {look.name}"
    corral = "corral" if shutil.which("corral") else sys.argv[0]
    key, found = own_key(look.at.service), ways(look.address)
    key_line, header = (f"Key      {key.advice}\n", f"{key.header} ") if key else ("", "")
    trust_line = f"Trust    {found.trust_export}\n" if found.trust else ""
    sys.stdout.write(
        f"\nAddress  {url}/v1  (any OpenAI client; docs at {url}/docs)\n"
        f"{key_line}{tls_line(look.address.fingerprint)}{trust_line}"
        f"Try      curl -s {found.trust}{url}/v1/chat/completions {header}"
        f"-H 'Content-Type: application/json' -d '{body}'\n"
        f"Laptop   {' '.join(found.forward)}\n"
        f"Stop     {corral} slurm down{option}\n"
    )
