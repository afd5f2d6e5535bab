"""`corral usage`: what keys, groups and models have taken, by day."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from app.access.counts import COLUMNS
from app.options import DEFAULT, Json, Name, Url
from app.show import aligned, print_json
from app.talk import Talk

By = Annotated[str, typer.Option("--by", help="What is told apart, with commas: day, key, group, model.")]
Day = Annotated[str | None, typer.Option(metavar="DAY", help="For example 2026-11-21, which is counted in (UTC).")]


def usage(
    since: Day = None, until: Day = None,
    key: Annotated[str | None, typer.Option("--key", help="The id of one key.")] = None,
    by: By = "day,key,model", name: Name = DEFAULT, url: Url = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Show what was used: requests, tokens and bulk items by day, key and model."""
    asked = {"since": since, "until": until, "key": key, "by": by}
    query = urlencode({word: value for word, value in asked.items() if value})
    with Talk.open(name, url) as talk:
        rows = talk.get(f"/v1/usage?{query}")["data"]
    if as_json:
        print_json(rows)
    elif rows:
        typer.echo(aligned(_table(rows, by.split(","))), nl=False)
    else:
        typer.echo("Nothing was used.")


def _table(rows: list[dict[str, Any]], by: list[str]) -> list[list[str]]:
    """The headings, then a line for each row; a key's name stands beside its id."""
    named = ["name"] if any(row.get("name") for row in rows) else []
    columns = [column for column in ("day", "key", *named, "group", "model") if column in (*by, *named)]
    titles = [*columns, *(count.replace("_", " ") for count in COLUMNS)]
    return [titles, *([str(row.get(column) or "-") for column in columns] + [str(row[count]) for count in COLUMNS]
                      for row in rows)]  # fmt: skip
