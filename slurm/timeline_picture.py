"""Pictures of one start: SVG for a browser, bars for a terminal. A lane for SLURM, each node and each model."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from slurm.timeline import Start
from slurm.timeline_costs import Mark, Span

WIDTH, NAMES, MARGIN, HEADING, LANE, BAR = 960, 190, 20, 76, 24, 16
"""Pixels: the SVG, the lanes' names in it, its edges, its heading, a lane, the bar in a lane."""
NAME_LENGTH, TITLE_LENGTH, LINE_LENGTH = 26, 100, 145
LEAST_COLUMNS = 40

OF_NODES = frozenset({"step started", "agent started", "head started", "node joined"})
MILESTONES = {"deployed": "#2563eb", "edge started": "#0f766e", "service ready": "#15803d", "first token": "#db2777"}
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


NAMED = {
    "queue": "queue", "slurm": "SLURM", "container_and_python": "container", "copy": "copy", "ray_head": "Ray's head",
    "ray_nodes": "Ray's nodes", "serve": "Serve", "engine": "engines", "edge": "edge", "other": "other",
}  # fmt: skip
STATES = frozenset({"joined", "waiting", "ready", "failed"})
NBSP = "\xa0"


class Paint(NamedTuple):
    """How a piece of a lane looks: its colour, whether that is dark, its character, its name in the legend."""

    colour: str
    dark: bool
    glyph: str
    label: str


PAINT = {
    "queue": Paint("#9ca3af", False, "·", "queue"),
    "slurm": Paint("#374151", True, "▁", "SLURM"),
    "container_and_python": Paint("#7c3aed", True, "▒", "srun, container, Python"),
    "copy": Paint("#0e7490", True, "▄", "copying weights"),
    "ray": Paint("#1d4ed8", True, "▓", "Ray"),
    "joined": Paint("#dbeafe", False, "─", "node is up"),
    "waiting": Paint("#e5e7eb", False, "┄", "not up yet"),
    "process": Paint("#a8a29e", False, "░", "process"),
    "weights": Paint("#c2410c", True, "█", "weights"),
    "warm-up": Paint("#eab308", False, "▚", "warm-up"),
    "compile": Paint("#86198f", True, "▀", "compile"),
    "ready": Paint("#bbf7d0", False, "═", "ready"),
    "failed": Paint("#b91c1c", True, "!", "failed"),
}


@dataclass(frozen=True)
class Lane:
    """Its pieces lie within the picture; each has an end."""

    name: str
    pieces: tuple[Span, ...]


@dataclass(frozen=True)
class Frame:
    """What a picture shows, in unix seconds, and where its axis has its zero."""

    left: float
    right: float
    zero: float

    @classmethod
    def of(cls, start: Start) -> Frame:
        """Until the service was ready, or the first token soon after. Most of a long wait in the queue is cut off."""
        end = start.events[-1].at if start.ready_at is None else start.ready_at
        job = start.first("job started") or start.zero
        tokens = [each.at for each in start.events if each.what == "first token"]
        if tokens and end < tokens[0] <= end + max(5.0, (end - job) / 4):
            end = tokens[0]
        length = max(end - job, 1.0)
        left = job - length / 4 if job - start.zero > 2 * length else start.zero
        return cls(left, end + max(end - left, 1.0) / 50, start.zero)

    def part(self, at: float) -> float:
        """0 at the left edge, 1 at the right one."""
        return (at - self.left) / (self.right - self.left)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Unix times, and their seconds on the axis."""
        length = self.right - self.left
        step = next((each for each in STEPS if length / each <= most), length / most)
        numbers = range(math.ceil((self.left - self.zero) / step), math.floor((self.right - self.zero) / step) + 1)
        return [(self.zero + number * step, f"{number * step:.10g}") for number in numbers]


def lanes(start: Start, frame: Frame) -> list[Lane]:
    nodes = dict.fromkeys(each.who for each in start.starting if each.what in OF_NODES)
    found = [("queue, SLURM", _slurm_spans(start))]
    found += [(node, _node_spans(start, node)) for node in nodes]
    found += [(model, start.model_spans(model)) for model in start.models]
    return [Lane(_printable(name), tuple(_within(spans, frame))) for name, spans in found]


def _slurm_spans(start: Start) -> list[Span]:
    job, step = start.first("job started"), start.first("step started", start.head)
    queue = [] if start.queued_at is None else [Span("queue", start.queued_at, job)]
    return queue if job is None else [*queue, Span("slurm", job, step)]


def _node_spans(start: Start, node: str) -> list[Span]:
    """From its step until Ray is up there, and then for as long as it stays."""
    up = start.up(node)
    marks = [(each.part, each.at) for each in (*start.arrival(node), Mark("ray", up)) if each.at is not None]
    if not marks:
        return []
    spans, here = [], marks[0][1]
    for part, at in marks[1:]:
        spans.append(Span(part, here, max(here, at)))
        here = max(here, at)
    gone = (each.at for each in start.events if each.who == node and each.what in ("node lost", "step ended"))
    return [*spans, Span("waiting" if up is None else "joined", here, next((at for at in gone if at >= here), None))]


def _within(spans: Iterable[Span], frame: Frame) -> Iterable[Span]:
    for span in spans:
        ends = frame.right if span.ends is None else min(span.ends, frame.right)
        if max(span.begins, frame.left) < ends:
            yield Span(span.what, max(span.begins, frame.left), ends)


def summary(start: Start) -> str:
    """How long it took until the service was ready, and what the parts had of it."""
    costs = start.costs()
    seconds = {name: getattr(costs, part) for part, name in NAMED.items()}
    told = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items() if value and value >= 0.05)
    begun = "not ready" if costs.total is None else f"ready after {costs.total:.1f} s"
    return f"{begun}: {told}" if told else begun


def svg(start: Start, title: str) -> str:
    """A whole SVG file. Pieces tell their length when pointed at; the background is white also on a dark page."""
    frame = Frame.of(start)
    shown = lanes(start, frame)
    foot = HEADING + LANE * len(shown)
    said = _wrapped(summary(start) + _cut(frame), ", ", LINE_LENGTH)
    legend, bottom = _legend(_used(shown), _milestones(start, frame), foot + 44)
    parts = [
        _tag("rect", width=WIDTH, height=bottom, fill="#ffffff"),
        _text(_short(title, TITLE_LENGTH), MARGIN, 26, font_size=16, font_weight="bold"),
        *(_text(line, MARGIN, 46 + 16 * row, fill="#4b5563") for row, line in enumerate(said)),
        *_axis(frame, foot),
        *(_lane(lane, frame, HEADING + LANE * row) for row, lane in enumerate(shown)),
        *_milestone_lines(start, frame, foot),
        *legend,
    ]
    size = {"width": WIDTH, "height": bottom, "viewBox": f"0 0 {WIDTH} {bottom}"}
    style = {"font_family": "system-ui, sans-serif", "font_size": 12, "fill": "#111827"}
    return _tag("svg", "\n".join(["", *parts, ""]), xmlns="http://www.w3.org/2000/svg", **size, **style) + "\n"


def _lane(lane: Lane, frame: Frame, top: float) -> str:
    label = _text(_short(lane.name, NAME_LENGTH), NAMES - 8, top + 16, text_anchor="end")
    pieces = [_piece(piece, frame, top) for piece in lane.pieces]
    return _tag("g", "".join([_tag("title", escape(lane.name)), label, *pieces]), class_="lane")


def _piece(piece: Span, frame: Frame, top: float) -> str:
    left, right, paint = _x(frame, piece.begins), _x(frame, piece.ends or frame.right), PAINT[piece.what]
    seconds = f"{(piece.ends or frame.right) - piece.begins:.1f} s"
    tip = _tag("title", escape(f"{paint.label} {seconds}"))
    bar = _tag("rect", tip, class_=piece.what, x=left, y=top + 4, width=right - left, height=BAR, fill=paint.colour)
    if right - left < 7 * len(seconds) + 8 or piece.what in STATES:
        return bar
    return bar + _text(seconds, left + 4, top + 16, fill="#ffffff" if paint.dark else "#111827", font_size=11)


def _axis(frame: Frame, foot: float) -> list[str]:
    found = []
    for at, label in frame.ticks(10):
        x = _x(frame, at)
        found.append(_tag("line", x1=x, x2=x, y1=HEADING, y2=foot + 4, stroke="#e5e7eb"))
        found.append(_text(f"{label} s", x, foot + 18, text_anchor="middle", fill="#4b5563", class_="tick"))
    return found


def _milestones(start: Start, frame: Frame) -> dict[str, float]:
    times = {what: next((each.at for each in start.events if each.what == what), None) for what in MILESTONES}
    return {what: at for what, at in times.items() if at is not None and frame.left <= at <= frame.right}


def _milestone_lines(start: Start, frame: Frame, foot: float) -> list[str]:
    return [
        _tag("line", x1=x, x2=x, y1=HEADING - 4, y2=foot + 4, stroke=MILESTONES[what], class_="milestone")
        for what, at in _milestones(start, frame).items()
        for x in (_x(frame, at),)
    ]


def _legend(parts: Iterable[str], milestones: Iterable[str], top: float) -> tuple[list[str], float]:
    """The entries in as many rows as they need, and where they end."""
    samples = [(PAINT[part].label, PAINT[part].colour, 12) for part in parts]
    samples += [(what, MILESTONES[what], 2) for what in milestones]
    found, x, y = [], MARGIN, top
    for label, colour, width in samples:
        length = 7 * len(label) + 36
        if x + length > WIDTH:
            x, y = MARGIN, y + 20
        found.append(_tag("rect", x=x + 6 - width / 2, y=y - 10, width=width, height=12, fill=colour))
        found.append(_text(label, x + 18, y))
        x += length
    return found, y + 16


def _x(frame: Frame, at: float) -> float:
    return round(NAMES + (WIDTH - NAMES - MARGIN) * frame.part(at), 2)


def _text(text: str, x: float, y: float, **attributes: object) -> str:
    return _tag("text", escape(_printable(text)), x=x, y=y, **attributes)


def _tag(name: str, content: str = "", /, **attributes: object) -> str:
    """One element. `content` is XML already; the names of attributes have `_` for `-`."""
    told = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(f"{each}")}"' for key, each in attributes.items())
    return f"<{name}{told}>{content}</{name}>" if content else f"<{name}{told}/>"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _printable(text: str) -> str:
    """Without what neither XML nor a terminal can take."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def _used(shown: Iterable[Lane]) -> list[str]:
    seen = {piece.what for lane in shown for piece in lane.pieces}
    return [part for part in PAINT if part in seen]


def _cut(frame: Frame) -> str:
    hidden = frame.left - frame.zero
    return f" (the first {hidden:.0f} s are not drawn)" if hidden > 0 else ""


def text_picture(start: Start, width: int) -> list[str]:
    """Lines of at most `width` characters (at least 40): a bar for each lane, the axis, the legend, the summary."""
    width = max(width, LEAST_COLUMNS)
    frame = Frame.of(start)
    shown = lanes(start, frame)
    names = min(max(len(lane.name) for lane in shown), width // 3)
    cells = width - names - 1
    bars = [f"{lane.name[:names]:<{names}} {_bar(lane, frame, cells)}".rstrip() for lane in shown]
    axis = [f"{'':{names}} {line}".rstrip() for line in _text_axis(frame, cells)]
    legend = _wrapped("   ".join(f"{PAINT[part].glyph} {PAINT[part].label}" for part in _used(shown)), "   ", width)
    return [*bars, *axis, *legend, *_wrapped(summary(start) + _cut(frame), ", ", width)]


def _wrapped(text: str, between: str, width: int) -> list[str]:
    """Lines of whole entries, which stand apart by `between`."""
    entries = text.split(between)
    lines = textwrap.wrap(between.join(each.replace(" ", NBSP) for each in entries), width)
    return [line.replace(NBSP, " ") for line in lines]


def _bar(lane: Lane, frame: Frame, cells: int) -> str:
    """Every piece has a cell, if only there is room: short ones are drawn over long ones."""
    drawn = [" "] * cells
    for piece in sorted(lane.pieces, key=lambda each: each.begins - (each.ends or 0.0)):
        first = min(round(frame.part(piece.begins) * cells), cells - 1)
        last = max(first + 1, round(frame.part(piece.ends or frame.right) * cells))
        drawn[first:last] = PAINT[piece.what].glyph * (last - first)
    return "".join(drawn)


def _text_axis(frame: Frame, cells: int) -> tuple[str, str]:
    line, labels = ["─"] * cells, ""
    for at, label in frame.ticks(max(1, cells // 10)):
        cell = min(round(frame.part(at) * cells), cells - 1)
        line[cell] = "┴"
        if len(labels) <= cell <= cells - len(label) - 2:
            labels = f"{labels:<{cell}}{label} s "
    return "".join(line), labels
