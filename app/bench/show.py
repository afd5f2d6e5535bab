"""What `corral bench` prints: what a run found, what two sides come to, what changed between two runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from app.show import aligned
from loadtests.records import Aggregate, Ratio, Run
from loadtests.report import data, words
from loadtests.report.aims import Aim, Judged
from loadtests.report.contents import Contents, contents_of
from loadtests.report.paper import saturation_words
from loadtests.report.tables import group_of
from loadtests.report.write import CSV, HTML, JSON, MARKDOWN
from loadtests.sweep.aggregate import FIGURES
from loadtests.sweep.changes import Change, cautions

COLUMNS = ("output_tokens_per_s", "ttft_p50", "ttft_p95", "itl_p50", "itl_p95", "e2e_p95")
BESIDE = (*COLUMNS[:-1], "e2e_p50", "e2e_p95")
UNCOUNTED = "not every answer told how many tokens it has, so there are no tokens/s"
MOVED = ("better", "worse")


def contents(run: Run, command: str, aims: Sequence[Aim]) -> Contents:
    return contents_of(run, command=command, aims=aims)


def as_json(found: Contents, folder: Path) -> dict[str, Any]:
    """report.json, and where it lies."""
    return {"folder": str(folder), **json.loads(data.json_text(found))}


def text(found: Contents, folder: Path) -> str:
    """Everything as tables and sentences; the last line says where the report is."""
    parts = [
        *_tables(found),
        "\n".join(_sentences(found)),
        "\n".join(_notices(found)),
        _beside(found) if found.other is not None else "",
        "\n".join(sentence(each) for each in found.judged),
        f"The whole report: {', '.join(str(folder / name) for name in (HTML, MARKDOWN, JSON, CSV))}",
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def _tables(found: Contents) -> Iterator[str]:
    """A table for each model, kind and lengths; times are in milliseconds."""
    groups: dict[str, list[Aggregate]] = {}
    for each in found.aggregates:
        groups.setdefault(group_of(each.point), []).append(each)
    for name, rows in groups.items():
        head = ["load", "endpoint", *(words.figure(each) for each in COLUMNS), "failed"]
        yield f"{name}, times in ms\n{aligned([head, *(_row(each) for each in rows)])}"


def _row(each: Aggregate) -> list[str]:
    figures = [each.figures.get(name) for name in COLUMNS]
    shown = [words.MISSING if figure is None else words.number(figure.value) for figure in figures]
    return [words.load(each.point), each.side, *shown, f"{each.failed}/{each.requests}"]


def _sentences(found: Contents) -> Iterator[str]:
    for each in found.saturations:
        beside = f" by {each.side}" if found.other is not None else ""
        yield f"{each.model}{beside}, {words.KINDS[each.kind]}, {words.lengths(each)}: {saturation_words(each)}"


def _notices(found: Contents) -> Iterator[str]:
    """What is missing or doubtful, each once, with its first place."""
    if found.faults:
        yield f"note: {found.failed:,} of {found.requests:,} requests failed: {words.faults(found.faults)}"
    told: set[str] = set()
    for each in found.aggregates:
        uncounted = "output_tokens_per_s" not in each.figures and each.failed < each.requests
        for notice in [*([UNCOUNTED] if uncounted else []), *each.notices]:
            if notice not in told:
                told.add(notice)
                yield words.plain(f"note: {each.point.model}, {each.point.load}, {each.side}: {notice}")
    yield from (words.plain(f"note: {notice}") for notice in found.record.notices)


def _beside(found: Contents) -> str:
    if not found.ratios:
        return "No point was answered on both sides, so there is no ratio."
    return f"{found.ours} over {found.other}\n{aligned(ratio_rows(found.ratios, found.ours, found.other or ''))}"


def ratio_rows(ratios: Sequence[Ratio], ours: str, other: str) -> list[list[str]]:
    """A head and a row for each figure of each point; the figures are means of the repeats."""
    several = len({group_of(each.point) for each in ratios}) > 1
    head = [*(["of"] if several else []), "load", "figure", other, ours, "ratio (95 %)"]
    return [head, *(_ratio_row(each, several) for each in ratios if each.figure in BESIDE)]


def _ratio_row(each: Ratio, several: bool) -> list[str]:
    of = [group_of(each.point)] if several else []
    figures = [words.number(each.other), words.number(each.ours), words.span(each.ratio, digits=2)]
    return [*of, words.load(each.point), _figure(each.figure), *figures]


def _figure(name: str) -> str:
    return words.figure(name) + ("" if name in words.RATES else f", {FIGURES[name].unit}")


def sentence(each: Judged) -> str:
    """An aim's verdict: `kept: ITL p95 at most 10 ms at 128 users of llama-1b: 8.1 (7.9 to 8.3)`."""
    where = f" at {words.load(each.point)} of {each.point.model}" if each.point else ""
    measured = f": {words.span(each.found, digits=3)}" if each.found is not None else ""
    return f"{each.verdict}: {each.aim.sentence}{where}{measured}"


def missed(judged: Iterable[Judged]) -> int:
    """How many aims are missed, or were not measured."""
    return sum(not each.kept for each in judged)


def comparison(before: Run, after: Run, changes: Sequence[Change]) -> str:
    """What changed beyond the noise, what else differs, and how much did not change."""
    moved = [each for each in changes if each.verdict in MOVED]
    several = len({each.side for each in changes}) > 1
    rows = [["", "load", "figure", "before", "after", "change"], *(_change_row(each, several) for each in moved)]
    parts = [
        aligned(rows) if moved else "Nothing changed beyond the noise.",
        "\n".join(f"note: {words.plain(each)}" for each in cautions(before, after)),
        f"{len(moved)} of {words.counted(len(changes), 'figure')} changed beyond the noise.",
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _change_row(each: Change, several: bool) -> list[str]:
    load = f"{group_of(each.point)}, {words.load(each.point)}" + (f", {each.side}" if several else "")
    figures = [words.span(each.before), words.span(each.after), words.percent(each.change)]
    return [each.verdict, load, _figure(each.figure), *figures]
