"""A tribunal on the terminal: a column for each member, with its drafts and its reviews as they come.

All text is rich's Text, never markup: it is models that wrote it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from threading import Lock
from typing import Any

from rich.box import ROUNDED
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from app.show import LiveBoard
from app.tribunal.deliberation import Call, Deliberation, clean
from app.tribunal.lines import given, line, ranking, reason, verbs

LEAST_WIDTH = 40
"""Columns of the terminal for one member; where there are fewer, members stand beneath each other."""
LATEST = 4
"""Calls of a member that are shown while there may be more; at the end all are."""
LEAST_LINES, ANSWER_LINES = 3, 8
REFRESHES_PER_S = 8


class TribunalBoard(LiveBoard):
    """Shows a tribunal on standard error: live on a terminal, else a line for each thing that is finished."""

    def __init__(self, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock, console=console)
        self._seen, self._lock = Deliberation(), Lock()
        if self._live:
            self._live = Live(console=self._console, get_renderable=self._picture, refresh_per_second=REFRESHES_PER_S)

    def update(self, envelope: Mapping[str, Any]) -> None:
        told = clean(envelope)
        with self._lock:
            self._seen.fold(told, self._clock())
        if not self._live and (text := line(told)):
            self._console.print(Text(text), soft_wrap=True)

    def _picture(self) -> RenderableType:
        """Called by rich's own thread, too."""
        with self._lock:
            return picture(self._seen, self._console.width, self._console.height, self._clock())


@dataclass(frozen=True)
class Tail:
    """The last lines of a text, as wrapped to where it is shown; all of it without a limit."""

    text: str
    lines: int | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        if self.lines is None:
            yield Text(self.text)
            return
        wrapped = Text(self.text[-self.lines * options.max_width :]).wrap(console, options.max_width)
        yield Text("\n").join(wrapped[-self.lines :])


def picture(seen: Deliberation, width: int, height: int, now: float) -> Group:
    """The whole of it at the end, before that what fits on the screen."""
    rows = _rows(list(seen.seats.items()), max(1, width // LEAST_WIDTH))
    below: list[RenderableType] = [
        Text(f"round {number}: {ranking(ranked)}", "cyan") for number, ranked in seen.rankings.items()
    ]
    if seen.stopped:
        below.append(Text(f"stopped: {reason(*seen.stopped)}", "yellow"))
    if not seen.over and (seen.answer or seen.writer):
        below += [_answer_title(seen), Padding(Tail(seen.answer, ANSWER_LINES), (0, 0, 0, 2))]
    taken = len(below) + (ANSWER_LINES if seen.answer else 0)
    room = None if seen.over else _room(rows, height - taken)
    side_by_side = width >= 2 * LEAST_WIDTH
    drawn = [(_columns if side_by_side else _stacked)(row, room, now, over=seen.over) for row in rows]
    return Group(*drawn, *below)


Seat = tuple[str, Sequence[Call]]


def _rows(seats: Sequence[Seat], most: int) -> list[Sequence[Seat]]:
    """The seats in as few rows as have at most so many each, and those even."""
    if not seats:
        return []
    size = ceil(len(seats) / ceil(len(seats) / most))
    return [seats[at : at + size] for at in range(0, len(seats), size)]


def _room(rows: Sequence[Sequence[Seat]], height: int) -> int:
    """Lines for each text, so that all rows are on the screen."""
    borders = 5
    fixed = sum(borders + max(_lines(calls) for _, calls in row) for row in rows)
    return max(LEAST_LINES, (height - fixed) // max(1, len(rows)))


def _lines(calls: Sequence[Call]) -> int:
    """What a seat takes beside its text."""
    return sum(1 + len(call.scores) for call in calls[-LATEST:])


def _columns(row: Sequence[Seat], room: int | None, now: float, *, over: bool) -> Table:
    table = Table(box=ROUNDED, expand=True)
    for member, calls in row:
        table.add_column(_title(member, calls[0].model), ratio=1, overflow="fold")
    table.add_row(*(_seat(calls, room, now, over=over) for _, calls in row))
    return table


def _stacked(row: Sequence[Seat], room: int | None, now: float, *, over: bool) -> Group:
    parts: list[RenderableType] = []
    for member, calls in row:
        parts += [_title(member, calls[0].model), Padding(_seat(calls, room, now, over=over), (0, 0, 1, 2))]
    return Group(*parts)


def _title(member: str, model: str) -> Text:
    return Text.assemble((member, "bold"), (f" {model}" if model != member else "", "dim"))


def _seat(calls: Sequence[Call], room: int | None, now: float, *, over: bool) -> Group:
    """States of drafts, the latest text, then the reviews."""
    shown = calls if room is None else calls[-LATEST:]
    text = next((call.text for call in reversed(calls) if call.text), "")
    writing = [_state(call, now, over=over) for call in shown if call.kind != "review"]
    reviews = [part for call in shown if call.kind == "review" for part in _review(call, now, over=over)]
    return Group(*writing, *([Tail(text, room)] if text else []), *reviews)


def _review(call: Call, now: float, *, over: bool) -> list[Text]:
    return [_state(call, now, over=over), *(Text(f"  {text}") for text in given(call.scores))]


def _state(call: Call, now: float, *, over: bool) -> Text:
    """What a member does or has done, in one line."""
    doing, done = verbs(call.kind)
    if call.reason is not None:
        return Text(f"absent: {call.reason}", "red")
    if call.abstained:
        return Text(f"abstained from {doing}", "magenta")
    if call.seconds is not None:
        tokens = "" if call.tokens is None else f", {call.tokens} tokens"
        return Text(f"{done} in {call.seconds:.1f} s{tokens}", "green")
    if over:
        return Text(f"{doing} was cut short", "dim")
    return Text(f"{doing}… {now - call.began:.0f} s", "yellow")


def _answer_title(seen: Deliberation) -> Text:
    return Text(f"answer, by {seen.writer}" if seen.writer else "answer", "bold")
