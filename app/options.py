"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT = "default"

Profile = Annotated[str | None, typer.Option("--profile", "-p", help="A built-in name or a YAML file.")]
Name = Annotated[str, typer.Option("--name", "-n", envvar="CORRAL_NAME", help="Which service of yours.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[str | None, typer.Option("--url", help="Address of a service; the default is your own.")]
