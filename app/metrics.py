"""Joins the Prometheus texts of many replicas into one, which may name each family only once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

SERIES = re.compile(r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
LABELS = {"vllm:": 'corral_model="{model}",replica="{replica}"', "corral_": 'model="{model}",replica="{replica}"'}
"""Whose families are kept -> what tells the replicas apart. vLLM's own labels name a model as vLLM knows it."""
CREATED = "_created"
"""When a series began: as many lines as there are counters, and Prometheus finds resets by itself."""


@dataclass
class _Family:
    header: list[str] = field(default_factory=list)
    series: list[str] = field(default_factory=list)


def merge_engine_metrics(texts: Mapping[str, Mapping[str, str]]) -> str:
    """Join model -> texts of its replicas by their ids. Keeps vLLM's families and Corral's."""
    families: dict[str, _Family] = {}
    for model, replicas in texts.items():
        for replica, text in replicas.items():
            _read(text, model, replica, families)
    return "".join("\n".join([*family.header, *family.series]) + "\n" for family in families.values() if family.series)


def _read(text: str, model: str, replica: str, families: dict[str, _Family]) -> None:
    current, labels = _Family(), ""
    for line in text.split("\n"):  # a label's value may hold what else ends a line
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            mine = next((prefix for prefix in LABELS if name.startswith(prefix)), None)
            kept = mine is not None and not name.endswith(CREATED)
            current = families.setdefault(name, _Family()) if kept else _Family()
            labels = LABELS[mine].format(model=model, replica=replica) if mine else ""
        if line.startswith("#"):
            if line not in current.header and len(current.header) < 2:
                current.header.append(line)
        elif match := SERIES.match(line):
            inner = f"{match['labels']}," if match["labels"] else ""
            current.series.append(f"{match['name']}{{{inner}{labels}}} {match['value']}")
