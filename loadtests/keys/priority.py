"""The client goes before the service for the processors that they share, as one on a machine of its own would.

What it measures is then the service's delay and not its own. What it computes is taken from the service all the same.
A nice value would not do: where the kernel groups processes by session, it counts among those of one session alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

EQUAL_NOTE = (
    "the client waits for processors like the service, and its delays are in the figures: only root may do better"
)
FIRST = os.SCHED_RR
_LEAST = os.sched_param(1)


def go_first() -> bool:
    """For the calling thread and what it starts from now on; False where this user may not."""
    try:
        os.sched_setscheduler(0, FIRST, _LEAST)
    except PermissionError:
        print(EQUAL_NOTE, flush=True)
        return False
    return True


@contextmanager
def first() -> Iterator[None]:
    """Within it; what is started there inherits it, so no service is."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    moved = go_first()
    try:
        yield
    finally:
        if moved:
            os.sched_setscheduler(0, policy, parameters)
