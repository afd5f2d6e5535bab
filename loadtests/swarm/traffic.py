"""The requests under way in one process, and how a load ends: no new ones, and some time for those."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from loadtests.records import Kind

LOOK_S = 0.05


@dataclass(frozen=True, eq=False)
class UnderWay:
    """A request; `silent_s` tells for how long nothing has come of it."""

    kind: Kind
    silent_s: Callable[[], float]


class Traffic:
    """`cut` is told the kind of each request that was ended from outside, and for how long nothing had come of it."""

    def __init__(self, cut: Callable[[Kind, float], None]) -> None:
        self.open = True
        self._cut = cut
        self._under_way: set[UnderWay] = set()

    @contextmanager
    def request(self, kind: Kind, silent_s: Callable[[], float]) -> Iterator[None]:
        """While a request is under way."""
        request = UnderWay(kind, silent_s)
        self._under_way.add(request)
        try:
            yield
        except BaseException:
            self._cut_off(request)
            raise
        finally:
            self._under_way.discard(request)

    def end(self, grace_s: float, now: Callable[[], float], sleep: Callable[[float], object]) -> None:
        """No request begins any more. Those under way are waited for; what is left of them then counts as cut."""
        self.open = False
        until = now() + grace_s
        while self._under_way and now() < until:
            sleep(LOOK_S)
        for request in list(self._under_way):
            self._cut_off(request)

    def _cut_off(self, request: UnderWay) -> None:
        """Counts it, unless it was counted at the end of the load."""
        if request in self._under_way:
            self._under_way.discard(request)
            self._cut(request.kind, request.silent_s())
