"""`corral monitoring`: parse, write, say how to go on. What it writes lies in files.py."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.options import DEFAULT, Json, Name
from app.show import print_json

if TYPE_CHECKING:
    from app.monitoring.files import Written

Output = Annotated[Path | None, typer.Option("--output", "-o", help="A folder; by default one in the state folder.")]
LOCAL_DISK = "           (--storage.tsdb.path must be on a disk of the machine that it runs on, not a shared one)\n"


def monitoring(name: Name = DEFAULT, output: Output = None, as_json: Json = False) -> None:
    """Write Prometheus's configuration, alerts and Grafana's dashboard for a service."""
    from app.monitoring.files import watched, write

    written = write(watched(name), output)
    if as_json:
        print_json({
            "folder": str(written.folder), "config": str(written.config), "dashboard": str(written.dashboard),
            "made_key": written.made_key, "command": shlex.join(written.command),
        })  # fmt: skip
    else:
        typer.echo(_told(written), nl=False)


def _told(written: Written) -> str:
    key = f"Key        {written.made_key} was made; it reads metrics and nothing else\n" if written.made_key else ""
    return (
        f"Files      {written.folder}\n{key}"
        f"Start      {shlex.join(written.command)}\n{LOCAL_DISK if written.shared else ''}"
        f"Dashboard  import {written.dashboard} in Grafana\n"
    )
