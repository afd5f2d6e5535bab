"""One GPU, two names: a model asks for Ray's (A100-80G), a site's SLURM calls it what it likes (nvidia_a100_80gb)."""

from __future__ import annotations

import re
from enum import IntEnum

from app.gpus import GPUS

SIZE = re.compile(r"(\d+)gb?")


class Match(IntEnum):
    """Whether two names mean one GPU. PERHAPS: SLURM's name tells no make that we know."""

    NO = 0
    PERHAPS = 1
    YES = 2


def match(wanted: str | None, slurm: str | None) -> Match:
    """Whether a model that asks for `wanted` (None: any) runs on what SLURM calls `slurm` (None: any)."""
    if wanted is None:
        return Match.YES
    if not slurm:
        return Match.PERHAPS
    if _makes(wanted) <= _words(slurm):
        sizes, others = _sizes(wanted), _sizes(slurm)
        return Match.NO if sizes and others and not sizes & others else Match.YES
    known = any(_makes(name) <= _words(slurm) for name in GPUS)
    return Match.NO if known else Match.PERHAPS


def _words(name: str) -> frozenset[str]:
    return frozenset(word for word in re.split(r"[^a-z0-9]+", name.lower()) if word)


def _makes(name: str) -> frozenset[str]:
    return frozenset(word for word in _words(name) if not SIZE.fullmatch(word))


def _sizes(name: str) -> frozenset[str]:
    return frozenset(found[1] for word in _words(name) if (found := SIZE.fullmatch(word)))
