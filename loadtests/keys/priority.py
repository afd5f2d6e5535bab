"""The client goes before the service for the processors that they share, as one on a machine of its own would.

What it measures is then the service's delay and not its own. What it computes is taken from the service all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

FIRST = -20
EQUAL_NOTE = (
    "the client waits for processors like the service, and its delays are in the figures: only root may do better"
)


def go_first() -> bool:
    """For the calling thread and the threads that it starts from now on; False where this user may not."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, FIRST)
    except PermissionError:
        print(EQUAL_NOTE, flush=True)
        return False
    return True


@contextmanager
def first() -> Iterator[None]:
    """Within it; what is started there inherits it, so no service is."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    moved = go_first()
    try:
        yield
    finally:
        if moved:
            os.setpriority(os.PRIO_PROCESS, 0, before)
