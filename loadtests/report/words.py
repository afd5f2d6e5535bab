"""Figures and loads in words; text of others made harmless to show."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Protocol

from loadtests.records import Interval, Kind, Point
from loadtests.sweep.aggregate import FIGURES

MISSING = "\N{EN DASH}"
OWN_LENGTHS = "lengths of the file"
KINDS = {
    Kind.CHAT: "chat, streamed",
    Kind.SINGLE: "single, whole answers",
    Kind.BULK: "bulk",
    Kind.TRIBUNAL: "tribunal",
    Kind.RAG: "chat with documents",
}
RATES = {
    "requests_per_s": "requests/s",
    "output_tokens_per_s": "output tokens/s",
    "output_tokens_per_s_per_gpu": "output tokens/s per GPU",
}
SIZE = re.compile(r"(?<![0-9a-z.])(\d+(?:\.\d+)?)b(?![0-9a-z])", re.IGNORECASE)
PASSWORD = re.compile(r"(?<=://)[^/\s\"]*@")
"""To the last @ before the path: one may be in the password, too."""


def plain(text: str) -> str:
    """On one line, without passwords in addresses and without what steers a terminal or turns the writing round."""
    return _printable(without_password(" ".join(text.split())))


def plain_lines(text: str) -> str:
    """As `plain`, but its lines and their indents stay."""
    return "\n".join(map(_printable, without_password(text).replace("\t", "    ").splitlines()))


def _printable(line: str) -> str:
    return "".join(each if each.isprintable() else "\ufffd" for each in line)


def without_password(text: str) -> str:
    """`http://user:secret@host` -> `http://host`."""
    return PASSWORD.sub("", text)


def number(value: float | None) -> str:
    """Three digits or all whole ones: 0.0120, 1.23, 12.3, 12,345."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}" if size >= 0.9995 else f"{value:#.3g}"


def whole(value: float) -> str:
    """A count without decimals, a mean of counts with them: 3, 1.25."""
    return f"{value:,.0f}" if value.is_integer() else number(value)


def share(value: float | None) -> str:
    """0.987 -> 98.7 %."""
    return MISSING if value is None or not math.isfinite(value) else f"{100 * value:.3g} %"


def time(ms: float | None) -> str:
    """12.3 ms, 1.23 s."""
    if ms is None or not math.isfinite(ms):
        return MISSING
    return f"{number(ms / 1000)} s" if abs(ms) >= 1000 else f"{number(ms)} ms"


def span(interval: Interval, digits: int | None = None) -> str:
    """1,234 (1,210 to 1,260); without the bracket for a single repeat."""

    def told(value: float) -> str:
        return number(value) if digits is None else f"{value:.{digits}f}"

    if interval.low is None or interval.high is None:
        return told(interval.value)
    return f"{told(interval.value)} ({told(interval.low)} to {told(interval.high)})"


def percent(change: Interval | None) -> str:
    """A relative change: +4.2 % (+1.1 to +7.3)."""
    if change is None:
        return MISSING
    value = f"{100 * change.value:+.1f} %"
    if change.low is None or change.high is None:
        return value
    return f"{value} ({100 * change.low:+.1f} to {100 * change.high:+.1f})"


def counted(count: int, one: str, many: str = "") -> str:
    """1 user, 2 users, 1,000 users."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(texts: list[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def load(point: Point) -> str:
    """How hard a point is asked: `64 users` or `3.5 requests/s`."""
    return counted(point.concurrency, "user") if point.concurrency else f"{point.rate:g} requests/s"


class Sized(Protocol):
    """Whatever is of one length of prompts and answers."""

    @property
    def input_tokens(self) -> int: ...

    @property
    def output_tokens(self) -> int: ...

    @property
    def own_lengths(self) -> bool: ...


def lengths(of: Sized) -> str:
    """`128 in, 128 out`, for a table's place where tokens are meant."""
    return OWN_LENGTHS if of.own_lengths else f"{of.input_tokens:,} in, {of.output_tokens:,} out"


def tokens(of: Sized) -> str:
    """`128 in, 128 out tokens`."""
    return OWN_LENGTHS if of.own_lengths else f"{lengths(of)} tokens"


def faults(kinds: Mapping[str, int]) -> str:
    """`3 timeout, 1 broken stream`, the most frequent first."""
    ordered = sorted(kinds.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in ordered if count)


def figure(name: str) -> str:
    """A figure's name for people, rates with their unit: `output tokens/s`, `ITL p95`."""
    return RATES.get(name, FIGURES[name].label)


def size_of(model: str) -> str:
    """The size that a model's name tells: `llama-3.2-1b` -> `1b`; empty where it tells none."""
    found = SIZE.search(model)
    return f"{float(found[1]):g}b" if found else ""
