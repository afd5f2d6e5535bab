"""The tables of figures: every point, two sides against each other, the aims."""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.records import Aggregate, Interval, Kind, Point, Ratio
from loadtests.report import columns, words
from loadtests.report.aims import Judged
from loadtests.report.columns import Figure, Measured
from loadtests.report.contents import Contents
from loadtests.report.document import Cell, Column, Notes, Row, Section, Table, Tone
from loadtests.sweep.aggregate import FIGURES, limits_in_words

TERMS = (
    "TTFT is the time from sending a request to its first text, ITL the time between two pieces of text, TPOT the "
    "time for each output token after the first, end to end the time to the answer's end. Where requests arrive at "
    "given times, TTFT and end to end count from when a request was due. Percentiles are over the requests that were "
    "answered. Each figure is the mean of the repeats, with its 95 % interval in brackets: rates, costs, and p50 and "
    "p95 of TTFT, ITL and end to end have one (report.json has it of every figure), from two repeats on. Requests, "
    "failures, prefix hits and preemptions are counted over all repeats; 'most' is the most of any."
)
RATIO_TERMS = (
    "Both sides were measured in turn. Each figure is the median of the repeats' ratios, with its 95 % interval in "
    "brackets; better and worse are said where the whole interval is on one side of 1."
)
NO_RATIO = "One of the sides has no such figure here: the reason stands below, with every point."
COMPARED = (
    "output_tokens_per_s", "requests_per_s", "ttft_p50", "ttft_p95", "itl_p50", "itl_p95", "e2e_p50", "e2e_p95",
)  # fmt: skip


def points(contents: Contents) -> Section:
    """Every point that was measured on every side."""
    notes = Notes()
    asked = limits_in_words(contents.plan.limits)
    goodput = f"Goodput counts the requests that kept the limits: {asked}." if asked else "No limits were stated."
    tables = (
        _table("Requests, throughput and cost", columns.throughput(bool(asked)), contents, notes),
        _table("Latencies", columns.latencies(), contents, notes),
        _table("What the engines said of themselves", columns.engine(), contents, notes),
    )
    return Section(
        title="Every point",
        anchor="points",
        texts=(TERMS, goodput) if contents.aggregates else ("Nothing was measured.",),
        tables=tables if contents.aggregates else (),
        notes=tuple(notes.texts),
    )


def group_of(point: Point) -> str:
    """What the rows of a model have in common."""
    kind = "" if point.kind is Kind.CHAT else f", {words.KINDS[point.kind]}"
    return f"{point.model}: {words.tokens(point)}{kind}"


def _table(caption: str, figures: Sequence[Figure], contents: Contents, notes: Notes) -> Table:
    rows = tuple(_row(each, figures, contents, notes) for each in contents.aggregates)
    return Table(caption, "Load", tuple(each.column for each in figures), rows)


def _row(each: Aggregate, figures: Sequence[Figure], contents: Contents, notes: Notes) -> Row:
    row = measured(each, contents)
    head = words.load(each.point) + (f", {each.side}" if len(contents.sides) > 1 else "")
    cells = tuple(_cell(figure, row, notes) for figure in figures)
    return Row(head, cells, group_of(each.point), notes.of(each.notices))


def measured(each: Aggregate, contents: Contents) -> Measured:
    repeats = contents.repeats(each)
    gpus = next((side.gpus_behind(each.point) for side in contents.sides if side.name == each.side), None)
    return Measured(each, len(repeats), columns.engine_of(one.figures.engine for one in repeats), gpus)


def _cell(figure: Figure, row: Measured, notes: Notes) -> Cell:
    text = figure.read(row)
    if text == words.MISSING:
        return Cell(text, notes.of(columns.reasons(figure, row)))
    return Cell(text, tone="bad" if figure.column.label == "Failed" and row.aggregate.failed else "")


def sides(contents: Contents) -> Section | None:
    """The ratios of the first side over the second one; None for a run of one side."""
    if contents.other is None:
        return None
    names = [each for each in COMPARED if any(ratio.figure == each for ratio in contents.ratios)]
    title = f"{contents.ours} over {contents.other}"
    if not names:
        return Section(title, "sides", ("No point was answered on both sides, so there is no ratio.",))
    found: dict[Point, dict[str, Ratio]] = {}
    for each in contents.ratios:
        found.setdefault(each.point, {})[each.figure] = each
    notes = Notes()
    rows = tuple(_ratio_row(point, names, each, notes) for point, each in found.items())
    table = Table(f"{title}: ratios", "Load", tuple(Column(words.figure(name)) for name in names), rows)
    return Section(title, "sides", (RATIO_TERMS,), tables=(table,), notes=tuple(notes.texts))


def _ratio_row(point: Point, names: Sequence[str], found: dict[str, Ratio], notes: Notes) -> Row:
    cells = tuple(_ratio(found[name]) if name in found else Cell(words.MISSING, notes.of([NO_RATIO])) for name in names)
    return Row(words.load(point), cells, group_of(point))


def _ratio(each: Ratio) -> Cell:
    text, tone = words.span(each.ratio, digits=2), towards(each.ratio, FIGURES[each.figure].better == "lower")
    said: dict[Tone, str] = {"good": f"{text} better", "bad": f"{text} worse", "": text}
    return Cell(said[tone], tone=tone)


def towards(ratio: Interval, lower: bool) -> Tone:
    """Whether a whole interval is on one side of 1; `lower` is whether less is better."""
    if ratio.low is None or ratio.high is None or ratio.low <= 1 <= ratio.high:
        return ""
    return "good" if (ratio.high < 1) == lower else "bad"


def aims(contents: Contents) -> Section | None:
    """What was to be reached; None where no aim was given."""
    if not contents.judged:
        return None
    heads = (Column("Model", text=True), Column("Load"), Column("Measured"), Column("Verdict", text=True))
    rows = tuple(_aim_row(each) for each in contents.judged)
    text = "Within the noise: the 95 % interval has the bound in it, or there is no interval."
    return Section("Aims", "aims", (text,), tables=(Table("What misses or keeps its aim", "Aim", heads, rows),))


def _aim_row(each: Judged) -> Row:
    """Of a ratio two decimals are not enough to see which side of its bound it is on."""
    digits = 3 if each.aim.of == "ratio" else None
    found = words.MISSING if each.found is None else words.span(each.found, digits)
    tones: dict[bool | None, Tone] = {True: "good", False: "bad", None: ""}
    model = each.point.model if each.point else each.aim.model or words.MISSING
    load = words.load(each.point) if each.point else words.MISSING
    cells = (Cell(model), Cell(load), Cell(found), Cell(each.verdict, tone=tones[each.kept]))
    return Row(each.aim.sentence, cells)
