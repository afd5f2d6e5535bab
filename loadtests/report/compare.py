"""Two runs, before and after: what changed beyond the noise, in Markdown and as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from loadtests.records import Run
from loadtests.report import html, markdown, words
from loadtests.report.document import Cell, Column, Document, Row, Section, Table, Tone
from loadtests.report.tables import group_of
from loadtests.sweep.aggregate import FIGURES
from loadtests.sweep.changes import Change, cautions

TONES: dict[str, Tone] = {"better": "good", "worse": "bad"}
MOVED = ("better", "worse")
TERMS = (
    "A figure changed if the 95 % interval of its relative change leaves out zero and the change is above 2 %. Of many "
    "figures that did not change, about one in twenty looks as if it had."
)


def comparison_markdown(before: Run, after: Run, changes: Sequence[Change]) -> str:
    """What changed beyond the noise, and what else differs between the runs. BenchError as `changes` has it."""
    return markdown.text(document_of(before, after, changes, whole=False))


def comparison_html(before: Run, after: Run, changes: Sequence[Change]) -> str:
    """The same as a page, with all figures that did not change."""
    return html.page(document_of(before, after, changes, whole=True))


def document_of(before: Run, after: Run, changes: Sequence[Change], *, whole: bool) -> Document:
    lead = f"Before: {_named(before)}. After: {_named(after)}."
    moved = [each for each in changes if each.verdict in MOVED]
    others = [each for each in changes if whole and each.verdict not in MOVED]
    changed = Section(
        "What changed",
        "changed",
        texts=(_counts(changes), TERMS) if changes else ("The runs have no figure in common.",),
        tables=(_table("Beyond the noise", moved),) if moved else (),
    )
    differs = cautions(before, after)
    about = Section("What else differs", "differs", points=tuple(differs)) if differs else None
    rest = Section("Not changed", "rest", tables=(_table("All other figures", others),)) if others else None
    return Document("Two runs compared", lead, tuple(each for each in (changed, about, rest) if each is not None))


def _named(run: Run) -> str:
    title = f"{run.record.plan.title}, " if run.record.plan.title else ""
    return f"{title}{run.record.began_at[:16].replace('T', ' ')} UTC"


def _counts(changes: Sequence[Change]) -> str:
    counts = Counter(each.verdict for each in changes)
    told = [f"{count:,} {verdict}" for verdict, count in sorted(counts.items())]
    return f"{words.counted(len(changes), 'figure')}: {words.listed(told)}."


def _table(caption: str, changes: Sequence[Change]) -> Table:
    several = len({each.side for each in changes}) > 1
    figures = tuple(Column(each) for each in ("Before", "After", "Change"))
    heads = (Column("Figure", text=True), *figures, Column("Verdict", text=True))
    return Table(caption, "Load", heads, tuple(_row(each, several) for each in changes))


def _row(each: Change, several: bool) -> Row:
    unit = "" if each.figure in words.RATES else f", {FIGURES[each.figure].unit}"
    figures = (words.span(each.before), words.span(each.after), words.percent(each.change))
    texts = (words.figure(each.figure) + unit, *figures)
    verdict = Cell(each.verdict, tone=TONES.get(each.verdict, ""))
    head = words.load(each.point) + (f", {each.side}" if several else "")
    return Row(head, (*map(Cell, texts), verdict), group_of(each.point))
