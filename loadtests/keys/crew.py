"""The client's processes: one alone falls behind its schedule, and what it measures is then its own delay."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from loadtests.keys.client import Asking
from loadtests.keys.open_loop import Part, Schedule, Sent, Users, crowd, send
from loadtests.keys.priority import go_first

START_S = 2.0
"""For processes that run to begin together."""
Work = TypeVar("Work")


class Crew:
    """So many processes, in a `with`; they are the same for everything that is asked."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=go_first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def closed(self, asking: Asking, users: int, seconds: float) -> Sent:
        """Users who ask again at once, for so long."""
        until_s = time.perf_counter() + seconds
        each = [Users(asking, count, until_s) for count in shares(users, self._processes)]
        return self._together(crowd, each)

    def open(self, asking: Asking, schedule: Schedule) -> tuple[float, Sent]:
        """When it began, and what came of it."""
        began_s = time.perf_counter() + START_S
        parts = [schedule.part(number, self._processes) for number in range(self._processes)]
        return began_s, self._together(send, [Part(asking, part, began_s) for part in parts])

    def _together(self, do: Callable[[Work], Sent], work: Sequence[Work]) -> Sent:
        found = [future.result() for future in [self._pool.submit(do, each) for each in work]]
        return Sent(tuple(answer for each in found for answer in each.answers), sum(each.processor_s for each in found))


def shares(total: int, parts: int) -> list[int]:
    """As equal as whole numbers are."""
    return [total // parts + (number < total % parts) for number in range(parts)]
