"""A shape as a text, NAME[:KEY=VALUE,...]; seconds may also be written 90s, 15m or 2h.

    none                                      as Locust's own options say: --users, --spawn-rate, --run-time
    steps:first=1,last=64,times=2,hold=30     1, 2, 4, ... 64 users, each for 30 s; add=8 instead of times=2: 1, 9, 17
    spike:base=1,peak=64,before=30,hold=60,after=60
    soak:users=16,rise=60,hold=1h             up within a minute, then the same for an hour
    ramp:first=1,last=256,times=2,hold=30,settle=10
                                              like steps, until the goodput falls: ends after two steps in a row with
                                              less than 90 % of the best. The first 10 s of a step do not count
                                              (a third of it if unset).

These are the defaults. Each takes rate=100, too: so many users are started in a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from loadtests.swarm.errors import OptionError, number
from loadtests.swarm.ramp import Ramp, RampPlan
from loadtests.swarm.shapes import MOST_USERS, Shape, Soak, Spike, Steps

NONE = "none"
PLANS: Mapping[str, type[Steps] | type[Spike] | type[Soak] | type[RampPlan]] = {
    "steps": Steps,
    "spike": Spike,
    "soak": Soak,
    "ramp": RampPlan,
}
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_S = 30 * 86_400.0


def shape_of(text: str) -> Shape | None:
    """A new shape; None for `none`. Raises OptionError."""
    name, _, rest = text.strip().partition(":")
    if name == NONE and not rest:
        return None
    if name not in PLANS:
        raise OptionError(f"shape: {name!r} is no shape; there are {', '.join(PLANS)} and {NONE}.")
    plan = PLANS[name](**_arguments(name, rest))
    return Ramp(plan) if isinstance(plan, RampPlan) else plan


def _arguments(name: str, text: str) -> dict[str, Any]:
    types = {field.name: field.type for field in fields(PLANS[name])}
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if key not in types or not equals:
            raise OptionError(f"shape {name}: {part!r} is nothing it takes; it has {', '.join(types)}, as KEY=VALUE.")
        where = f"shape {name}: {key}"
        read = _users if types[key] == "int" else _seconds if "Seconds" in str(types[key]) else _number
        found[key] = read(value, where)
    return found


def _number(text: str, where: str) -> float:
    return number(text, where, most=MOST_USERS)


def _users(text: str, where: str) -> int:
    value = _number(text, where)
    if value != int(value):
        raise OptionError(f"{where}: {text!r} is no whole number.")
    return int(value)


def _seconds(text: str, where: str) -> float:
    digits, unit = (text[:-1], UNITS[text[-1]]) if text[-1:] in UNITS else (text, 1.0)
    return number(digits, where, most=LONGEST_S) * unit
