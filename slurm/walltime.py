"""How SLURM writes durations, read and written."""

from __future__ import annotations

import re
from datetime import timedelta

FORMS = "minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS"
UNLIMITED = frozenset({"UNLIMITED", "INFINITE"})
LONGEST = timedelta(days=36_500)

_DAYS = re.compile(r"(?P<d>\d{1,9})-(?P<h>\d{1,9})(:(?P<m>\d{1,9})(:(?P<s>\d{1,9}))?)?", re.ASCII)
_CLOCK = re.compile(r"((?P<h>\d{1,9}):)?(?P<m>\d{1,9}):(?P<s>\d{1,9})", re.ASCII)
_MINUTES = re.compile(r"(?P<m>\d{1,9})", re.ASCII)


def parse_walltime(text: str) -> timedelta:
    """A duration in any of SLURM's forms (FORMS). Raises ValueError."""
    for form in (_DAYS, _CLOCK, _MINUTES):
        if match := form.fullmatch(text.strip()):
            parts = {key: int(value or 0) for key, value in match.groupdict().items()}
            return _bounded(timedelta(days=parts.get("d", 0)) + _clock(parts), text)
    if text.strip().upper() in UNLIMITED:
        raise ValueError(f"{text!r} has no end; say how long: {FORMS}")
    raise ValueError(f"{text!r} is not a duration; SLURM reads {FORMS}")


def format_walltime(duration: timedelta) -> str:
    """D-HH:MM:SS, which every SLURM command reads; parts of a second are dropped."""
    hours, rest = divmod(duration.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{duration.days}-{hours:02}:{minutes:02}:{seconds:02}"


def parse_limit(text: str) -> timedelta | None:
    """A limit as squeue and sinfo print it; None where there is none, or none is known."""
    try:
        return parse_walltime(text)
    except ValueError:
        return None


def _clock(parts: dict[str, int]) -> timedelta:
    return timedelta(hours=parts.get("h", 0), minutes=parts.get("m", 0), seconds=parts.get("s", 0))


def _bounded(duration: timedelta, text: str) -> timedelta:
    if duration > LONGEST:
        raise ValueError(f"{text!r} is longer than a hundred years")
    return duration
