"""SLURM's hostlists: n[1-3,07-09],login."""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST = 100_000
_PART = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


def expand_hostlist(text: str) -> tuple[str, ...]:
    """The hosts that a hostlist names, in its order. Raises ValueError."""
    hosts: list[str] = []
    for item in _items(text.strip()):
        hosts += _expand(item)
        _bounded(len(hosts), text)
    return tuple(hosts)


def _items(text: str) -> Iterator[str]:
    """Split at commas outside of brackets."""
    depth = start = 0
    for index, char in enumerate(text):
        depth += {"[": 1, "]": -1}.get(char, 0)
        if depth not in (0, 1):
            raise ValueError(f"{text!r} is not a hostlist: its brackets do not match")
        if char == "," and depth == 0:
            yield text[start:index]
            start = index + 1
    if depth:
        raise ValueError(f"{text!r} is not a hostlist: its brackets do not match")
    if text:
        yield text[start:]


def _expand(item: str) -> list[str]:
    if not item or re.search(r"\s", item):
        raise ValueError(f"{item!r} is not a host of a hostlist")
    hosts = [""]
    for ranges, plain in _PART.findall(item):
        tails = [plain] if plain else [number for part in ranges.split(",") for number in _numbers(part)]
        _bounded(len(hosts) * len(tails), item)
        hosts = [host + tail for host in hosts for tail in tails]
    return hosts


def _numbers(part: str) -> list[str]:
    """07-09 -> 07, 08, 09: as wide as the first is written."""
    match = _RANGE.fullmatch(part)
    if not match:
        raise ValueError(f"{part!r} is not a range of a hostlist")
    first, last = match[1], match[2] or match[1]
    if int(last) < int(first):
        raise ValueError(f"{part!r} runs backwards")
    _bounded(int(last) - int(first), part)
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _bounded(count: int, text: str) -> None:
    if count > MOST:
        raise ValueError(f"{text[:80]!r} names more than {MOST} hosts")
