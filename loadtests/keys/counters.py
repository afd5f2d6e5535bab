"""What the service says that it answered: the edge's own count, by status, at /metrics."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping

from loadtests.servers import DIRECT

SERIES = re.compile(r"^corral_edge_requests_total\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
TIMEOUT_S, LOOK_S, WITHIN_S = 10, 0.2, 10.0
Counts = Mapping[int, int]
"""Status -> requests."""


def counts_of(exposition: str, model: str) -> Counter[int]:
    """Requests that ended at the address, of one model, by status."""
    found = Counter[int]()
    for labels, value in SERIES.findall(exposition):
        named = dict(LABEL.findall(labels))
        if named.get("model") == model:
            found[int(named["status"])] += int(float(value))
    return found


def between(before: Counts, after: Counts) -> dict[int, int]:
    """Those that came meanwhile."""
    grown = {status: count - before.get(status, 0) for status, count in sorted(after.items())}
    return {status: count for status, count in grown.items() if count}


def read_counts(url: str, key: str, model: str) -> Counter[int]:
    request = urllib.request.Request(f"{url}/metrics", headers={"authorization": f"Bearer {key}"})
    with DIRECT.open(request, timeout=TIMEOUT_S) as answer:
        return counts_of(answer.read().decode(), model)


def settled(read: Callable[[], Counts], before: Counts, expected: int, within_s: float = WITHIN_S) -> dict[int, int]:
    """What came since `before`, once it is as much as expected: the edge tells of a request after its end.

    What is missing after `within_s` is missing.
    """
    until_s = time.monotonic() + within_s
    while sum((found := between(before, read())).values()) < expected and time.monotonic() < until_s:
        time.sleep(LOOK_S)
    return found
