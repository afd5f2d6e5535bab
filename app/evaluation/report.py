"""The report of a run: report.json with everything, report.md with the tables, and the two as data and text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.evaluation.compare import LEAST_DISCORDANT, MOST_P, Comparison, Evaluation, Ran, Rival
from app.evaluation.contestants import SAMPLE_TEMPERATURE
from app.evaluation.statistics import Interval
from app.evaluation.tasks import Task
from app.evaluation.wording import (
    chosen_sentence,
    few_note,
    points,
    points_span,
    reach_note,
    share,
    span,
    times,
    verdict_sentence,
)

NOTES = (
    "Accuracy has Wilson's 95% interval. A difference is paired: both answered the same tasks, and its 95% interval is "
    "a bootstrap's over tasks. Each interval is of one figure; nothing corrects for how many strategies are tried.",
    "With few tasks the bootstrap is too narrow. So any standing but level also takes a McNemar p below "
    f"{MOST_P}, or, where a baseline is read off between two runs and there is no such test, at least "
    f"{LEAST_DISCORDANT} tasks in which the two differ by at least half.",
    "Tokens are prompts and answers of all calls, a judge's left out; a call that was cancelled counts by an estimate "
    "of its prompt. Seconds are what the client waited while other questions were asked, too, without its waits for a "
    "service that was busy. Tokens, calls and seconds are means (or as said) over what did not fail; what failed "
    "counts as wrong. `absent` counts the answers for which a member was missing.",
    "A member alone keeps its own system message, role and bound of tokens, as far as the service tells them; its "
    "single answer is at temperature 0, whatever its own is. Its samples are at its own temperature, or at "
    f"{SAMPLE_TEMPERATURE} if it has none or 0. Members that are tribunals themselves are not asked alone.",
    "At equal tokens a baseline is read off between its two runs that cost the nearest less and the nearest more; runs "
    "without any answer are left out. Its cheap end is the single answer, at temperature 0, which stands in for a run "
    "of one sample that was not made.",
)
Row = list[str]


@dataclass(frozen=True)
class Report:
    """about: what was run, with which versions, by which command, on which tasks and tribunal."""

    evaluation: Evaluation
    comparisons: tuple[Comparison, ...]
    tasks: tuple[Task, ...]
    about: Mapping[str, Any]

    @property
    def sentences(self) -> list[str]:
        """Who the best single member is, and then one verdict for each strategy."""
        chosen = chosen_sentence(self.evaluation.singles, self.evaluation.best, self.evaluation.left_out)
        return [chosen, *(" ".join(verdict_sentence(c).split()) for c in self.comparisons)]

    @property
    def tags(self) -> dict[str, int]:
        """Every tag, in the order of the tasks, with how many have it."""
        tags = [tag for task in self.tasks for tag in task.tags]
        return {tag: tags.count(tag) for tag in dict.fromkeys(tags)}

    def to_json(self) -> dict[str, Any]:
        return {
            **self.about,
            "best_single": self.evaluation.best.label,
            "contestants": [self._contestant(ran) for ran in self.evaluation.all],
            "comparisons": [_comparison(comparison) for comparison in self.comparisons],
            "verdicts": self.sentences,
        }

    def summary(self) -> dict[str, Any]:
        """What fits a screen."""
        return {
            "best_single": self.evaluation.best.label,
            "contestants": [{"label": ran.label, **_figures(ran)} for ran in self.evaluation.all],
            "standings": {c.ran.label: c.standing for c in self.comparisons},
            "verdicts": self.sentences,
        }

    def accuracy_rows(self) -> list[Row]:
        """The table that is printed and that leads the report."""
        head = ["contestant", "n", "accuracy", "95% interval", "tokens", "calls", "seconds p50", "p95",
                "accuracy per 1,000 tokens", "failed", "absent", "unparsed"]  # fmt: skip
        return _without_empty([head, *(_accuracy_row(ran) for ran in self.evaluation.all)])

    def tag_rows(self) -> list[Row]:
        head = ["contestant", *(f"{tag} ({count})" for tag, count in self.tags.items())]
        rows = [(ran.label, ran.by_tag(self.tasks)) for ran in self.evaluation.all]
        return [head, *([label, *(share(found[t][0] / found[t][1]) for t in self.tags)] for label, found in rows)]

    def equal_rows(self) -> list[Row]:
        head = ["strategy", "tokens", "accuracy", "baseline", "its accuracy", "difference", "95% interval", "",
                "read off"]  # fmt: skip
        return [head, *(_equal_row(c, rival) for c in self.comparisons for rival in c.rivals)]

    def markdown(self) -> str:
        tags = ["## By kind of task", _table(self.tag_rows())] if self.tags else []
        equal = ["## At equal tokens", _table(self.equal_rows())] if self.comparisons else []
        verdicts = "\n".join(f"- {sentence}" for sentence in self.sentences)
        about = "\n".join(_about(self.about))
        return "\n\n".join([
            "# Tribunal evaluation", about, "## Verdicts", verdicts, "## Accuracy and cost",
            _table(self.accuracy_rows()), "![accuracy by tokens](accuracy_by_tokens.svg)", *equal, *tags,
            "## How to read this", *NOTES,
        ]) + "\n"  # fmt: skip

    def write(self, folder: Path) -> None:
        """report.json and report.md."""
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        (folder / "report.md").write_text(self.markdown(), encoding="utf-8")

    def _contestant(self, ran: Ran) -> dict[str, Any]:
        made = ran.contestant
        tags = {tag: {"right": right, "n": count} for tag, (right, count) in ran.by_tag(self.tasks).items()}
        return {
            "label": ran.label, "strategy": made.strategy, "member": made.seat and made.seat.name,
            "model": made.seat and made.seat.member.model, "samples": made.samples, "config": dict(made.config),
            **_figures(ran), "by_tag": tags,
        }  # fmt: skip


def _figures(ran: Ran) -> dict[str, Any]:
    return {
        "n": ran.count, "right": ran.right, "accuracy": round(ran.accuracy, 6), "interval": _interval(ran.interval),
        "mean_tokens": round(ran.mean_tokens, 2), "mean_calls": round(ran.mean_calls, 3),
        "seconds_p50": round(ran.seconds(50), 4), "seconds_p95": round(ran.seconds(95), 4),
        "accuracy_per_1000_tokens": round(ran.accuracy_per_thousand, 6), "failed": ran.failed,
        "absent": ran.absent, "unparsed": ran.unparsed,
    }  # fmt: skip


def _interval(interval: Interval) -> list[float]:
    return [round(interval.low, 6), round(interval.high, 6)]


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "strategy": comparison.ran.label, "best_single": comparison.best.label, "standing": comparison.standing,
        "difference": round(comparison.difference, 6), "interval": _interval(comparison.interval),
        "mcnemar_p": comparison.p, "few_tasks": comparison.few, "times_tokens": times(comparison),
        "at_equal_tokens": [_rival(rival) for rival in comparison.rivals],
    }  # fmt: skip


def _rival(rival: Rival) -> dict[str, Any]:
    return {
        "baseline": rival.baseline, "accuracy": round(rival.accuracy, 6), "tokens": round(rival.tokens, 2),
        "runs": list(rival.runs), "weight": round(rival.weight, 6), "reach": rival.reach,
        "difference": round(rival.difference, 6), "interval": _interval(rival.interval),
        "discordant": rival.discordant, "mcnemar_p": rival.p, "few_tasks": rival.few, "standing": rival.standing,
    }  # fmt: skip


def _accuracy_row(ran: Ran) -> Row:
    return [
        ran.label, str(ran.count), share(ran.accuracy), span(ran.interval), f"{ran.mean_tokens:,.0f}",
        f"{ran.mean_calls:.1f}", f"{ran.seconds(50):.2f}", f"{ran.seconds(95):.2f}",
        f"{ran.accuracy_per_thousand:.3f}", str(ran.failed), str(ran.absent), str(ran.unparsed),
    ]  # fmt: skip


def _equal_row(comparison: Comparison, rival: Rival) -> Row:
    ran = comparison.ran
    read = " and ".join(rival.runs) + reach_note(rival)
    return [
        ran.label, f"{ran.mean_tokens:,.0f}", share(ran.accuracy), rival.baseline, share(rival.accuracy),
        points(rival.difference), points_span(rival.interval), f"{rival.standing}{few_note(rival)}", read,
    ]  # fmt: skip


def _without_empty(rows: list[Row]) -> list[Row]:
    """The column `unparsed` is only for runs with a judge that was not understood; the others are always shown."""
    return rows if any(row[-1] != "0" for row in rows[1:]) else [row[:-1] for row in rows]


def _table(rows: Sequence[Row]) -> str:
    head, *body = (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _about(about: Mapping[str, Any]) -> list[str]:
    tasks, tribunal = about["tasks"], about["tribunal"]
    return [
        f"- tasks: {tasks['count']} of `{tasks['file']}` (sha256 `{tasks['sha256'][:16]}`)",
        f"- tribunal: `{tribunal['name']}`, members {', '.join(tribunal['members'])}",
        f"- command: `{about['command']}`",
        f"- seed {about['seed']}, {about['concurrency']} questions at once, judge: {about['judge'] or 'none'}, "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    ]
