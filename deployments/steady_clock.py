"""Serve's controller by a clock that nobody sets.

It measures by the wall clock how long ago it looked at a replica or a proxy, and for how long more replicas are wanted.
Where that clock is put back by an hour it would look at none for an hour, and nothing that dies would be replaced.
"""

from __future__ import annotations

import time
from typing import Any

from deployments.request_log import lose_what_does_not_fit


class Steady:
    """The module time, but time() goes on evenly from what it is now."""

    def __init__(self) -> None:
        self._began_s = time.time() - time.monotonic()

    def time(self) -> float:
        """Seconds since 1970, if nobody has set the clock meanwhile."""
        return self._began_s + time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def prepare() -> None:
    """Called by Serve in its controller, before that does anything."""
    lose_what_does_not_fit()
    keep_steady()


def keep_steady() -> None:
    """For whatever this process has of Serve."""
    from ray.serve import autoscaling_policy
    from ray.serve._private import deployment_state, proxy_state

    steady = Steady()
    for module in (deployment_state, autoscaling_policy):
        vars(module)["time"] = steady
    if timer := getattr(proxy_state, "Timer", None):
        timer.time = lambda self: steady.time()


CALLBACK = f"{prepare.__module__}.{prepare.__name__}"
