"""A run for programs: report.json and figures.csv."""

from __future__ import annotations

import csv
import io
import json
import math

from loadtests.records import EngineFigures, Fault, Measurement, Run
from loadtests.report import words
from loadtests.report.aims import Judged
from loadtests.report.contents import Contents
from loadtests.report.paper import NAME, Claimed
from loadtests.sweep.aggregate import FIGURES

SCHEMA = "corral-bench-report/1"
"""report.json has: `schema`, this; `run`, the record of run.json; `command`; and, as lists, `aggregates`,
`saturations`, `ratios` (the first side over the second), `paper` and `aims`, each with the fields of the record of its
name in loadtests.records, report.paper and report.aims. A figure that was not measured is null or absent."""
FORMULA = tuple("=+-@\t\r")
"""A spreadsheet takes a cell that begins with one of these for a formula."""
COLUMNS = (
    "side", "model", "kind", "concurrency", "rate_per_s", "input_tokens", "output_tokens", "repeat", "began_at",
    "seconds", "requests", "failed", *(f"failed_{each.value}" for each in Fault), *FIGURES,
    *(f"engine_{name}" for name in EngineFigures.model_fields), "notices",
)  # fmt: skip


def json_text(contents: Contents) -> str:
    whole = {
        "schema": SCHEMA,
        "command": contents.command,
        "run": contents.record.model_dump(mode="json", by_alias=True),
        "aggregates": [each.model_dump(mode="json") for each in contents.aggregates],
        "saturations": [each.model_dump(mode="json") for each in contents.saturations],
        "ratios": [each.model_dump(mode="json") for each in contents.ratios],
        "paper": [_claimed(each) for each in contents.claimed],
        "aims": [_judged(each) for each in contents.judged],
    }
    return json.dumps(_told(whole), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _claimed(each: Claimed) -> dict[str, object]:
    return {"paper": NAME, **each.model_dump(mode="json")}


def _judged(each: Judged) -> dict[str, object]:
    return {
        "aim": each.aim.model_dump(mode="json"),
        "point": each.point and each.point.model_dump(mode="json"),
        "found": each.found and each.found.model_dump(mode="json"),
        "kept": each.kept,
        "verdict": each.verdict,
    }


def _told(value: object) -> object:
    """JSON has no NaN and no infinity, and nobody else is to have the passwords in addresses."""
    if isinstance(value, dict):
        return {name: _told(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_told(each) for each in value]
    if isinstance(value, str):
        return words.without_password(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def csv_text(run: Run) -> str:
    """A row for each measurement, in the order of their measuring; what was not measured is empty."""
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(_row(each) for each in run.measurements)
    return written.getvalue()


def _row(each: Measurement) -> list[str | int | float | None]:
    point, figures = each.point, each.figures
    engine = figures.engine or EngineFigures()
    return [
        harmless(each.side), harmless(point.model), point.kind.value, point.concurrency, point.rate,
        *((None, None) if point.own_lengths else (point.input_tokens, point.output_tokens)), each.repeat,
        harmless(each.began_at),
        figures.seconds, figures.requests, figures.failed,
        *(figures.faults.get(fault.value, 0) for fault in Fault),
        *(figure.of(figures) for figure in FIGURES.values()),
        *(getattr(engine, name) for name in EngineFigures.model_fields),
        harmless("; ".join(each.notices)),
    ]  # fmt: skip


def harmless(text: str) -> str:
    """Text that no spreadsheet computes: behind an apostrophe if it looks like a formula."""
    line = words.plain(text)
    return f"'{line}" if text.startswith(FORMULA) or line.startswith(FORMULA) else line
