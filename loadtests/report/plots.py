"""The drawings: throughput and latency over load, two sides, distributions, timelines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from loadtests.records import Aggregate, Interval, Ratio
from loadtests.report import distributions, timeline, words
from loadtests.report.axes import MARKERS, Line, Scale, drawn, marker_of
from loadtests.report.contents import Contents, Shape
from loadtests.report.document import Entry, Panel, Plot, Section
from loadtests.report.svg import SERIES

MOST_SHAPES = 3
"""Lengths, kinds and ways to ask that are drawn; the tables have all."""
BRIEFLY = frozenset({"output_tokens_per_s", "requests_per_s", "ttft_p95", "itl_p95", "e2e_p95"})
"""What is drawn of all but the first of them."""
WIDE = 20
"""Models whose most differ by more than this are drawn on a logarithmic scale."""
RATES = ("output_tokens_per_s", "requests_per_s")
TIMES = ("ttft_p50", "ttft_p95", "itl_p50", "itl_p95", "e2e_p50", "e2e_p95")
TITLES = {
    "output_tokens_per_s": "Output tokens per second",
    "requests_per_s": "Requests per second",
    "ttft_p50": "Time to first token, median",
    "ttft_p95": "Time to first token, 95th percentile",
    "itl_p50": "Inter-token latency, median",
    "itl_p95": "Inter-token latency, 95th percentile",
    "e2e_p50": "Whole answer, median",
    "e2e_p95": "Whole answer, 95th percentile",
}
RATIOS = ("output_tokens_per_s", "requests_per_s", "ttft_p50", "itl_p50", "itl_p95", "e2e_p50", "e2e_p95")
UNITS = {"output_tokens_per_s": "tokens/s", "requests_per_s": "requests/s"}


def section(contents: Contents) -> Section:
    """All of them, or why there are none."""
    plots = tuple(_all(contents))
    if plots:
        return Section("Plots", "plots", _undrawn(contents), plots=plots)
    why = "no request was answered" if contents.requests else "nothing was measured"
    return Section("Plots", "plots", (f"There is nothing to draw: {why}.",))


def _all(contents: Contents) -> Iterator[Plot]:
    for shape in contents.shapes[:MOST_SHAPES]:
        yield from _of_shape(contents, shape)
    for one in (distributions.plot(contents), timeline.plot(contents)):
        if one is not None:
            yield one


def _of_shape(contents: Contents, shape: Shape) -> Iterator[Plot]:
    of = f"{_named(shape)}: {words.tokens(shape)}"
    panels = tuple(_loads(contents, shape))
    if panels:
        gaps = "Bars are 95 % intervals over the repeats; a gap in a line is a load without an answer."
        yield Plot(f"Throughput and latency, {of}", gaps, legend(contents, panels), panels)
    panels = tuple(_ratios(contents, shape))
    if panels and contents.other is not None:
        title = f"{contents.ours} over {contents.other}, {of}"
        caption = "Ratios of repeats that were measured in turn, with 95 % intervals; the line is 1: no difference."
        yield Plot(title, caption, legend(contents, panels, sides=False), panels)


def _loads(contents: Contents, shape: Shape) -> Iterator[Panel]:
    """Tokens (or, if none were told, requests) per second, and the latencies that there are."""
    chosen = [each for each in contents.aggregates if contents.shape(each) == shape]
    told = {figure for each in chosen for figure in each.figures}
    answered = any(each.requests > each.failed for each in chosen)
    rates = [figure for figure in RATES if figure in told and answered][:1]
    times = [figure for figure in TIMES if figure in told]
    streamed = [figure for figure in times if figure[:3] != "e2e"]
    for figure in _drawn([*rates, *(streamed or times)], contents, shape):
        lines = list(_lines(contents, chosen, figure))
        scale = Scale("ms", log=True) if figure in TIMES else Scale(UNITS[figure], log=_far_apart(lines))
        panel = drawn(f"{contents.shapes.index(shape)}-{figure}", TITLES[figure], lines, scale, x_label(shape))
        if panel:
            yield panel


def _drawn(figures: list[str], contents: Contents, shape: Shape) -> list[str]:
    return figures if shape == contents.shapes[0] else [each for each in figures if each in BRIEFLY]


def _named(shape: Shape) -> str:
    return words.KINDS[shape.kind] + (", arriving at a rate" if shape.open_loop else "")


def _lines(contents: Contents, chosen: Sequence[Aggregate], figure: str) -> Iterator[Line]:
    sides = list(dict.fromkeys(each.side for each in chosen))
    for number, model in enumerate(contents.models):
        for place, side in enumerate(sides):
            found = [each for each in chosen if each.point.model == model and each.side == side]
            label = f"{model}, {side}" if len(contents.sides) > 1 else model
            at = tuple(load(each) for each in found)
            values = tuple(_answered(each, figure) for each in found)
            yield Line(label, number, side != contents.ours, at, values, 0.1 * (place - (len(sides) - 1) / 2))


def _answered(each: Aggregate, figure: str) -> Interval | None:
    """A throughput of nothing is no point of a line: it is told as failed."""
    return each.figures.get(figure) if each.failed < each.requests else None


def load(each: Aggregate | Ratio) -> float:
    return float(each.point.concurrency or each.point.rate or 0)


def _far_apart(lines: Iterable[Line]) -> bool:
    most = [max(value.value for _, value in each.told) for each in lines if each.told]
    return bool(most) and min(most) > 0 and max(most) / min(most) > WIDE


def _ratios(contents: Contents, shape: Shape) -> Iterator[Panel]:
    chosen = [each for each in contents.ratios if contents.shape(each) == shape]
    told = [figure for figure in RATIOS if any(each.figure == figure for each in chosen)]
    hidden = {"requests_per_s"} if "output_tokens_per_s" in told else set()
    hidden |= {"e2e_p50", "e2e_p95"} if "itl_p50" in told else set()
    for figure in _drawn([each for each in told if each not in hidden], contents, shape):
        lines = list(_ratio_lines(contents, chosen, figure))
        better = "more is better" if figure in UNITS else "less is better"
        title = f"{TITLES[figure]}: ratio, {better}"
        panel = drawn(
            f"{contents.shapes.index(shape)}-ratio-{figure}", title, lines, Scale("ratio", False, 1.0), x_label(shape)
        )
        if panel:
            yield panel


def _ratio_lines(contents: Contents, chosen: Sequence[Ratio], figure: str) -> Iterator[Line]:
    for number, model in enumerate(contents.models):
        found: dict[float, Interval | None] = {load(one): None for one in chosen if one.point.model == model}
        found |= {load(one): one.ratio for one in chosen if one.point.model == model and one.figure == figure}
        at = tuple(sorted(found))
        shift = 0.08 * (number - (len(contents.models) - 1) / 2)
        yield Line(model, number, False, at, tuple(found[each] for each in at), shift)


def x_label(shape: Shape) -> str:
    return "requests that arrive per second" if shape.open_loop else "concurrent users"


def legend(contents: Contents, panels: Sequence[Panel], *, sides: bool = True) -> tuple[Entry, ...]:
    """The models, and with two sides how these are told apart."""
    entries = [
        Entry(model, str(number % len(SERIES)), marker_of(number)) for number, model in enumerate(contents.models)
    ]
    if sides and contents.other is not None:
        entries.append(Entry(contents.ours, "soft", MARKERS[0]))
        entries += [Entry(each.name, "soft", MARKERS[0], "4 3", hollow=True) for each in contents.sides[1:]]
    return tuple(entries)


def _undrawn(contents: Contents) -> tuple[str, ...]:
    left = contents.shapes[MOST_SHAPES:]
    if not left:
        return ()
    told = [f"{_named(each)} ({words.lengths(each)})" for each in left]
    return (f"Not drawn over load, but in the tables: {words.listed(list(dict.fromkeys(told)))}.",)
