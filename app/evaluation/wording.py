"""How figures are said: shares, differences and intervals in one form everywhere, and a sentence for each verdict."""

from __future__ import annotations

from collections.abc import Sequence

from app.evaluation.compare import Comparison, Ran, Rival
from app.evaluation.statistics import Interval


def share(value: float) -> str:
    return f"{100 * value:.1f}%"


def span(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}%"


def points(difference: float) -> str:
    """A difference of two shares, in percentage points."""
    return f"{100 * difference:+.1f}"


def points_span(interval: Interval) -> str:
    return f"{points(interval.low)} to {points(interval.high)}"


def accuracy_of(ran: Ran) -> str:
    return f"{share(ran.accuracy)} ({span(ran.interval)})"


def chosen_sentence(singles: Sequence[Ran], best: Ran, left_out: Sequence[str] = ()) -> str:
    """Which member the strategies and the samples are compared by, and why."""
    tribunals = f" Not asked alone, being tribunals themselves: {', '.join(left_out)}." if left_out else ""
    return (
        f"The best single member is {best.seat.name}, {accuracy_of(best)}: of the {len(singles)} that were asked "
        "alone, the one whose single answers were right most often in this run. The samples are its, too. It is "
        f"chosen by the same tasks, which favours it over the strategies.{tribunals}"
    )


def verdict_sentence(comparison: Comparison) -> str:
    """Whether a strategy beats the best single member, and where it stands at equal tokens."""
    alone = f"{_against_best(comparison)}. {_figures(comparison)}"
    return " ".join([alone, *(_at_tokens(rival, comparison.ran) for rival in comparison.rivals)])


def _against_best(comparison: Comparison) -> str:
    name, best = comparison.ran.label, f"the best single member, {comparison.best.seat.name}"
    return {
        "beats": f"{name} beats {best}, outside its confidence interval",
        "ahead": f"{name} is ahead of {best}, but not outside its confidence interval",
        "level": f"{name} is level with {best}{few_note(comparison)}",
        "loses": f"{name} loses to {best}",
    }[comparison.standing]


def _figures(comparison: Comparison) -> str:
    return (
        f"It is right in {share(comparison.ran.accuracy)}, against {accuracy_of(comparison.best)}; the difference is "
        f"{points(comparison.difference)} points (paired, 95% interval {points_span(comparison.interval)}; "
        f"McNemar p {_probability(comparison.p)}), at {times(comparison)} times the tokens."
    )


def times(comparison: Comparison) -> str:
    alone, together = comparison.best.mean_tokens, comparison.ran.mean_tokens
    return f"{together / alone:.1f}" if alone and together else "?"


def few_note(compared: Comparison | Rival) -> str:
    """That a level standing may be for want of tasks."""
    return "; the tasks are too few to tell more" if compared.few and compared.standing == "level" else ""


def _probability(p: float) -> str:
    return "below 0.0001" if p < 0.0001 else f"{p:.4f}"


def _at_tokens(rival: Rival, ran: Ran) -> str:
    """One sentence on one baseline, with what it rests on where that is no run or no pair of runs."""
    if rival.baseline == "single":
        if rival.reach == "cheapest":
            return f"Even one answer of that member costs more: {rival.tokens:,.0f} tokens to {ran.mean_tokens:,.0f}."
        return ""
    stands = {"ahead": "it is ahead of", "level": "it is level with", "loses": "it loses to"}[rival.standing]
    return (
        f"At equal tokens ({ran.mean_tokens:,.0f}) {stands} {rival.baseline} of that member, {share(rival.accuracy)}"
        f"{reach_note(rival)}: {points(rival.difference)} points ({points_span(rival.interval)}){few_note(rival)}."
    )


def reach_note(rival: Rival) -> str:
    """What to know of a figure that was not read off between two runs."""
    if rival.reach == "cheapest":
        return f" (already its cheapest run costs more, {rival.tokens:,.0f})"
    if rival.reach == "dearest" and rival.baseline != "single":
        return f" (its dearest run costs less, {rival.tokens:,.0f})"
    return ""
