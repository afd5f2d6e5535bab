"""Page: one look at a service as `corral top` shows it, in 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.monitoring.figures import Figures, ModelFigures
from app.monitoring.watch import KeyUsage, Look
from app.show import COLOURS
from deployments.status import ModelState

KEYS_SHOWN = 5
NONE = "-"
UNITS = ((1.0, ""), (1e3, "k"), (1e6, "M"))
HEADINGS = ("state", "repl", "run", "wait", "in/s", "out/s", "ttft50", "ttft95", "itl95", "kv", "pre", "ref")


def page(look: Look) -> RenderableType:
    """What is old is dim."""
    style = "dim" if look.trouble else ""
    parts: list[RenderableType] = [_heading(look)]
    if look.trouble:
        parts.append(Text(f"{look.trouble} (for {duration(look.at - (look.since or look.at))})", style="red"))
    if look.figures:
        parts += [_models(look.figures.models, style), Text(_counts(look.figures), style=style)]
    if look.keys:
        parts.append(_keys(look.keys, style))
    return Group(*parts)


def _heading(look: Look) -> Text:
    told = [look.name]
    if look.place:
        told += [look.place.url, look.place.phase]
    if look.figures and look.figures.nodes:
        told.append(_nodes(look.figures.nodes))
    if look.figures and look.figures.ends is not None:
        told.append(f"{duration(look.figures.ends - look.at)} left")
    return Text("  ".join(word for word in told if word), style="bold")


def _nodes(nodes: Mapping[str, int]) -> str:
    words = [f"{count} {state}" for state, count in nodes.items() if count]
    return f"nodes: {', '.join(words) or 'none'}"


def _models(models: Sequence[ModelFigures], style: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), style=style, header_style="bold", pad_edge=False)
    table.add_column("model", overflow="ellipsis", no_wrap=True, ratio=1, min_width=8)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    for model in models:
        table.add_row(Text(model.model), *_cells(model))
    return table


def _cells(model: ModelFigures) -> list[RenderableType]:
    state = ModelState(model.state) if model.state in set(ModelState) else None
    share = NONE if model.kv_cache is None else f"{model.kv_cache:.0%}"
    plain = [
        f"{model.replicas}/{model.target_replicas}", number(model.running), number(model.waiting),
        number(model.prompt_tokens_per_s), number(model.completion_tokens_per_s), seconds(model.ttft_p50_s),
        seconds(model.ttft_p95_s), seconds(model.itl_p95_s), share, number(model.preemptions), number(model.refused),
    ]  # fmt: skip
    return [Text(model.state or NONE, style=COLOURS[state] if state else ""), *map(Text, plain)]


def _counts(figures: Figures) -> str:
    if figures.interval_s is None:
        return "rates follow with the next look"
    refused = ", ".join(f"{reason} {count}" for reason, count in figures.refusals.items()) or "none"
    return (
        f"{number(figures.requests_per_s)} requests/s, {number(figures.failed_per_s)} failed/s; "
        f"refused in {figures.interval_s:.1f} s: {refused}"
    )


def _keys(keys: Sequence[KeyUsage], style: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), style=style, header_style="bold", pad_edge=False)
    table.add_column("key, today", overflow="ellipsis", no_wrap=True, ratio=1)
    for heading in ("requests", "refused", "tokens in", "tokens out"):
        table.add_column(heading, justify="right", no_wrap=True)
    for key in keys[:KEYS_SHOWN]:
        counts = (key.requests, key.refused, key.prompt_tokens, key.completion_tokens)
        table.add_row(Text(f"{key.key} {key.name}".strip()), *map(number, counts))
    if more := len(keys) - KEYS_SHOWN:
        table.caption = f"and {more} more" if more > 0 else None
    return table


def number(value: float | None) -> str:
    """In at most five characters, up to 9,999 millions."""
    if value is None:
        return NONE
    size, unit = next((each for each in UNITS if value < 9_999.5 * each[0]), UNITS[-1])
    scaled = value / size
    digits = 1 if 0 < scaled < 99.95 and (unit or scaled % 1) else 0
    return f"{scaled:.{digits}f}{unit}"


def seconds(value: float | None) -> str:
    if value is None:
        return NONE
    if value < 0.00995:
        return f"{value * 1000:.1f}ms"
    if value < 0.9995:
        return f"{value * 1000:.0f}ms"
    return f"{value:.2f}s" if value < 9.995 else f"{value:.0f}s"


def duration(value: float) -> str:
    """As H:MM:SS, or seconds where it is less than two minutes."""
    whole = max(0, round(value))
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
