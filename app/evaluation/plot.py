"""Accuracy by tokens as a picture: strategies and single models as points, the baselines as curves over samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.evaluation.compare import Evaluation, Ran

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer

SIZE_INCHES = (9.0, 5.0)
CURVE_POINTS = 200
PIXELS_PER_INCH = 150
SALT = "corral"
"""Of the ids in the SVG, so that the same run gives the same file."""


def write_plot(evaluation: Evaluation, folder: Path) -> None:
    """accuracy_by_tokens.svg and .png. matplotlib takes a second to import, so only who draws does."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": SALT, "svg.fonttype": "path"}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        _draw(figure.add_subplot(), evaluation)
        figure.savefig(folder / "accuracy_by_tokens.svg", metadata={"Date": None})
        figure.savefig(folder / "accuracy_by_tokens.png", dpi=PIXELS_PER_INCH)


def _draw(axes: Axes, evaluation: Evaluation) -> None:
    from matplotlib import colormaps

    axes.set_prop_cycle(color=colormaps["tab20"](range(20)))
    for name, runs in evaluation.sampled.items():
        _curve(axes, [evaluation.best, *runs], f"{name} of {evaluation.best.seat.name}")
    for marker, runs in (("s", evaluation.singles), ("D", evaluation.deliberated)):
        for ran in runs:
            _series(axes, [ran], label=ran.label, linestyle="none", marker=marker)
    axes.set_xscale("log")
    axes.set_xlabel("mean tokens of a task, all calls")
    axes.set_ylabel("accuracy, with 95% interval")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:,.0f}" if f"{value:.0e}"[0] in "235" else "")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def _curve(axes: Axes, runs: Sequence[Ran], label: str) -> None:
    """Between two runs the line is what equal tokens are read off at: straight by tokens, so bent on this axis."""
    shown = sorted((ran for ran in runs if ran.mean_tokens), key=lambda ran: ran.mean_tokens)
    container = _series(axes, shown, label=label, linestyle="none", marker=".")
    if len(shown) > 1:
        tokens = np.geomspace(shown[0].mean_tokens, shown[-1].mean_tokens, CURVE_POINTS)
        between = np.interp(tokens, [ran.mean_tokens for ran in shown], [ran.accuracy for ran in shown])
        axes.plot(tokens, between, color=container.lines[0].get_color())


def _series(axes: Axes, runs: Sequence[Ran], **style: Any) -> ErrorbarContainer:
    """Points with error bars; on an axis of logarithms a run without tokens has no place."""
    shown = [ran for ran in runs if ran.mean_tokens]
    below = [ran.accuracy - ran.interval.low for ran in shown]
    above = [ran.interval.high - ran.accuracy for ran in shown]
    return axes.errorbar(
        [ran.mean_tokens for ran in shown], [ran.accuracy for ran in shown], yerr=[below, above], capsize=3, **style
    )
