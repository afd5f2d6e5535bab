"""Asks a running service for a change and follows it to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from app.change.place import Place
from app.change.records import ChangeStatus, Order, UnderWayError
from app.launch import NotRunningError
from app.settings import Settings, SettingsError

POLL_S = 0.25
UNHEARD_S = 90.0
"""A service looks for orders twice a second; a shared folder may take a while to show them."""

__all__ = ["ChangeFailedError", "GoneBackError", "UnderWayError", "ask", "follow", "outcome"]


class GoneBackError(Exception):
    """The service is as it was before; the message says why."""


class ChangeFailedError(Exception):
    """Neither the new profile nor the old one is in force as a whole."""


def ask(place: Place, settings: Settings, profile: str, timeout_s: float) -> Order:
    """Raises UnderWayError, NotRunningError."""
    if not place.folder.is_open:
        raise NotRunningError("this service takes no changes: it has not started whole, or is of an earlier version")
    return place.folder.submit(settings.model_dump(mode="json"), profile, timeout_s, time.time())


def follow(place: Place, order: Order, sleep: Callable[[float], None] = time.sleep) -> Iterator[ChangeStatus]:
    """How far the change is, until it has ended. Raises NotRunningError if the service has."""
    heard = False
    deadline = time.monotonic() + UNHEARD_S
    while True:
        status = place.folder.status()
        if status and status.id == order.id:
            heard = True
            yield status
            if status.ended:
                return
        elif time.monotonic() > deadline and not heard and place.folder.withdraw():
            raise NotRunningError(f"the service did not look at it within {UNHEARD_S:g} s; nothing was changed")
        if why := place.down():
            raise NotRunningError(why)
        sleep(POLL_S)


def outcome(status: ChangeStatus) -> None:
    """Raises what a change has ended with, if it is not done."""
    if status.phase == "refused":
        raise SettingsError(f"nothing was changed: {status.message}")
    if status.phase == "gone back":
        raise GoneBackError(f"all is as before, since {status.message}")
    if status.phase == "failed":
        raise ChangeFailedError(f"{status.message}; `corral status` shows what serves")
