"""`corral top`: parse, look again and again, show. What it looks at lies in watch.py, what it shows in page.py."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live

from app.options import DEFAULT, Json, Name, Url
from app.show import print_json
from app.talk import UnreachableError

if TYPE_CHECKING:
    from app.monitoring.watch import Look, Watch


def top(
    once: Annotated[bool, typer.Option("--once", help="Look for one interval, print, end.")] = False,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.2, help="Seconds from look to look.")] = 2,
    name: Name = DEFAULT, url: Url = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Watch the models at work: load, tokens, latencies, cache, refusals; until Ctrl-C."""
    from app.monitoring.places import place
    from app.monitoring.watch import Watch

    place(name, url)  # where there is no such service, say so at once
    watch = Watch(url or name, partial(place, name, url), time.time, time.monotonic)
    with closing(watch):
        looks = looked(watch, interval)
        if once:
            _once(looks, as_json=as_json)
        elif as_json:
            for look in looks:
                print_json(look.to_json(), compact=True)
        else:
            _show(looks)


def looked(watch: Watch, interval_s: float, sleep: Callable[[float], None] = time.sleep) -> Iterator[Look]:
    """The first look at once, then one for each interval."""
    for number in itertools.count():
        if number:
            sleep(interval_s)
        yield watch.look()


def _once(looks: Iterator[Look], *, as_json: bool) -> None:
    """Rates need two looks. Raises UnreachableError."""
    from app.monitoring.page import page

    look = next(itertools.islice(looks, 1, None))
    if look.trouble:
        raise UnreachableError(look.trouble)
    if as_json:
        print_json(look.to_json(), compact=True)
    else:
        Console().print(page(look))


def _show(looks: Iterator[Look]) -> None:
    """On a terminal in place; elsewhere one page after the other."""
    from app.monitoring.page import page

    console = Console()
    if not console.is_terminal:
        for look in looks:
            console.print(page(look))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for look in looks:
            live.update(page(look), refresh=True)
