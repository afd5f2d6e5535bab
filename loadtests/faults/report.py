"""What was measured as a Markdown table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from loadtests.faults.measure import Measured

HEAD = ("fault", "requests", "failed", "in flight on it", "not in flight", "retried", "clients saw", "failing for, s",
        "first answer, s", "all back, s", "longest answer, s", "untouched")  # fmt: skip


def table(measured: Sequence[Measured]) -> str:
    """A row for each fault; seconds are from the fault."""
    rows = [HEAD, ("---",) * len(HEAD), *(_row(each) for each in measured)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def in_short(one: Measured) -> str:
    """For people who read a log."""
    return (
        f"{one.fault}: {len(one.failed)} of {one.requests} requests failed, {len(one.others)} not in flight there, "
        f"{one.retried} asked again; clients saw {_seen(one)}; "
        f"answers after {one.first_success_s:.1f} s, all back after {one.whole_s:.1f} s"
    )


def _seen(one: Measured) -> str:
    return ", ".join(f"{count} x {what}" for what, count in one.seen.most_common()) or "nothing"


def _row(one: Measured) -> tuple[str, ...]:
    return (
        one.fault, str(one.requests), str(len(one.failed)), str(len(one.failed) - len(one.others)),
        str(len(one.others)), str(one.retried), _seen(one), f"{one.failing_s:.1f}", f"{one.first_success_s:.1f}",
        f"{one.whole_s:.1f}", f"{one.longest_s:.1f}", ", ".join(one.untouched),
    )  # fmt: skip


def content(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    return [asdict(each) for each in measured]
