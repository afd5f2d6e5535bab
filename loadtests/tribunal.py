"""How a tribunal's panel runs, and how soon its engines are idle when a client leaves: python -m loadtests.tribunal.

Asks a running service (--address) the same question again and again. The drafting step's time is from its first call
to its last answer, held against its slowest draft. Then clients leave streams in the middle.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
import urllib.request
from typing import Any

QUESTION = "Passage: The willow partition has a time limit of 48 hours.\n\nQuestion: How long may a job run on willow?"
DISPUTED = "Passage: The joondarpang module was installed by Wendy Cole.\n\nQuestion: Who maintains joondarpang?"
RUNNING = re.compile(r"^vllm:num_requests_(?:running|waiting){[^}]*} (\S+)$", re.M)
LONG = {"rounds": 8, "stop": {"consensus": None, "leader": False}, "wording": "general", "self_review": True}
"""Reviews in JSON, which models this small write to the last character, round after round."""


def asked(address: str, body: dict[str, Any]) -> Any:
    """The open answer to a tribunal's question."""
    content = json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/v1/tribunal", content, {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=300)


def drafting(result: dict[str, Any]) -> tuple[float, float]:
    """Seconds of the drafting step, and of its slowest draft."""
    drafts = [step for step in result["trace"] if step["kind"] == "draft"]
    began = min(step["started_s"] for step in drafts)
    ended = max(step["started_s"] + step["seconds"] for step in drafts)
    return ended - began, max(step["seconds"] for step in drafts)


def idle_after_s(address: str) -> float:
    """Seconds from a client's leaving in the middle until no engine runs or holds anything."""
    body = {"question": DISPUTED, "tribunal": "default", "stream": True, "config": LONG}
    with asked(address, body) as stream:
        for line in stream:
            if b'"kind": "review"' in line:
                break
        while not in_flight(address):
            time.sleep(0.01)
    left = time.perf_counter()
    while in_flight(address):
        time.sleep(0.01)
    return time.perf_counter() - left


def in_flight(address: str) -> float:
    with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
        return sum(map(float, RUNNING.findall(answer.read().decode())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--leavers", type=int, default=10)
    given = parser.parse_args()
    ratios, seconds = [], []
    for _ in range(given.times):
        with asked(given.address, {"question": QUESTION}) as answer:
            step_s, slowest_s = drafting(json.load(answer))
        ratios.append(step_s / slowest_s)
        seconds.append(step_s)
    left = [idle_after_s(given.address) for _ in range(given.leavers)]
    print(f"drafting step: median {statistics.median(seconds) * 1000:.0f} ms")
    print(f"of its slowest draft: median {statistics.median(ratios):.3f}, most {max(ratios):.3f} times")
    print(f"idle after a client left: median {statistics.median(left):.2f} s, most {max(left):.2f} s")


if __name__ == "__main__":
    main()
