"""Joins the Prometheus texts of many engine processes into one, which may name each family only once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SERIES = re.compile(r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
PREFIX = "vllm:"


@dataclass
class _Family:
    header: list[str] = field(default_factory=list)
    series: list[str] = field(default_factory=list)


def merge_engine_metrics(texts: Mapping[str, Sequence[str]]) -> str:
    """Join model -> texts of its replicas. Keeps vLLM's families and adds labels corral_model and replica."""
    families: dict[str, _Family] = {}
    for model, replicas in texts.items():
        for number, text in enumerate(replicas):
            _read(text, f'corral_model="{model}",replica="{number}"', families)
    return "".join("\n".join([*family.header, *family.series]) + "\n" for family in families.values() if family.series)


def _read(text: str, labels: str, families: dict[str, _Family]) -> None:
    current = _Family()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            current = families.setdefault(name, _Family()) if name.startswith(PREFIX) else _Family()
        if line.startswith("#"):
            if line not in current.header and len(current.header) < 2:
                current.header.append(line)
        elif match := SERIES.match(line):
            inner = f"{match['labels']}," if match["labels"] else ""
            current.series.append(f"{match['name']}{{{inner}{labels}}} {match['value']}")
