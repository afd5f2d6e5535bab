"""Numbers in running text.

A number has digits, maybe a sign, a decimal point, an exponent, thousands separators (commas or narrow spaces, in
groups of three) and a percent sign. A comma is never a decimal point. A hyphen after a letter or a digit is no sign
(`willow-5`, `3-5`), and digits right after a letter are no number (`H100`, `CO2`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RELATIVE = 1e-6
"""Numbers that are no further apart than this share of the reference are the same."""

_NUMBER = re.compile(
    r"""
    (?:(?<![\w)])(?P<sign>[-+\u2212]))?  # a sign only where nothing that could be subtracted from is before it
    (?<!\w)(?<![0-9]\.)                  # not within a word, nor in the middle of 1.2.3
    (?P<digits>
        [0-9]{1,3}(?:[,\u00a0\u2009\u202f][0-9]{3})+(?![0-9])(?:\.[0-9]+)?
        | [0-9]+(?:\.[0-9]+)?
        | \.[0-9]+
    )
    (?P<exponent>[eE][-+]?[0-9]+)?
    (?P<percent>\s?%)?
    """,
    re.X,
)
_SEPARATORS = str.maketrans("", "", ",\u00a0\u2009\u202f")


@dataclass(frozen=True)
class Number:
    """`percent`: whether a percent sign follows; the value is the one before it."""

    value: float
    percent: bool = False

    def is_close_to(self, reference: Number) -> bool:
        """Whether it says the same. 12 % is 12 % and 0.12, and 12 with its unit left out."""
        if _close(self.value, reference.value):
            return True
        if self.percent == reference.percent:
            return False
        return _close(self.value / 100, reference.value) if self.percent else _close(self.value, reference.value / 100)


def numbers(text: str) -> list[Number]:
    """Every number in the text, in its order."""
    return [_number(match) for match in _NUMBER.finditer(text)]


def _number(match: re.Match[str]) -> Number:
    sign = -1 if match["sign"] in ("-", "\u2212") else 1
    digits = match["digits"].translate(_SEPARATORS)
    return Number(sign * float(digits + (match["exponent"] or "")), match["percent"] is not None)


def _close(value: float, reference: float) -> bool:
    return abs(value - reference) <= RELATIVE * abs(reference)
