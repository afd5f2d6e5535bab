"""From outcomes to verdicts: equal tokens on outcomes made by hand, what the report says, also of who loses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from app.evaluation.compare import Evaluation, Ran, best_of, compared, neighbours
from app.evaluation.plot import write_plot
from app.evaluation.report import Report
from tests.unit.evaluation import questions, ran

COUNT = 200
ABOUT = {
    "command": "corral eval tribunal", "versions": {"python": "3.11"}, "seed": 0, "concurrency": 8, "judge": None,
    "tasks": {"file": "tasks.jsonl", "sha256": "0" * 64, "count": COUNT, "limit": None},
    "tribunal": {"name": "default", "members": ["small", "large"], "models": ["small", "large"], "spec": {}},
}  # fmt: skip


def row(right: int) -> str:
    return "1" * right + "0" * (COUNT - right)


def evaluation() -> Evaluation:
    """large is right in 140 of 200. council wins, refine wins by little, debate is level, mixture loses."""
    best = ran("", row(140), 100, "large")
    deliberated = (
        ran("council", row(180), 400), ran("refine", row(146), 250), ran("debate", row(140), 200),
        ran("mixture", row(120), 90),
    )  # fmt: skip
    sampled = (
        ran("best_of_n large n=2", row(150), 200, "large", 2),
        ran("best_of_n large n=5", row(170), 600, "large", 5),
    )
    return Evaluation((ran("", row(90), 90, "small"), best), best, deliberated, {"best_of_n": sampled})


def report() -> Report:
    made = evaluation()
    return Report(made, compared(made), questions(COUNT, tags=["kind | of"]), ABOUT)


def test_figures_of_a_contestant() -> None:
    each = ran("council", "11x0", 500)
    assert (each.right, each.failed, each.accuracy) == (2, 1, 0.5)
    assert each.mean_tokens == 500
    assert each.accuracy_per_thousand == 1.0
    assert each.seconds(95) == 0.5
    nothing = ran("council", "xx")
    assert (nothing.mean_tokens, nothing.accuracy_per_thousand, nothing.seconds(50)) == (0, 0, 0)
    tasks = [*questions(2, tags=["a", "b"]), *questions(2, tags=["b"])]
    assert each.by_tag(tasks) == {"a": (2, 2), "b": (2, 4)}


def test_the_best_single_is_the_most_accurate_and_then_the_cheapest() -> None:
    singles = [ran("", "110", 9, "a"), ran("", "111", 50, "b"), ran("", "111", 40, "c"), ran("", "111", 40, "d")]
    assert best_of(singles).seat.name == "c"
    assert best_of([ran("", "xx", 9, "a"), ran("", "00", 50, "b")]).seat.name == "b"


@pytest.mark.parametrize(
    ("tokens", "lower", "upper", "weight", "reach"),
    [
        (50, 1, 1, 0.0, "cheapest"),
        (100, 1, 2, 0.0, "between"),
        (150, 1, 2, 0.5, "between"),
        (300, 2, 5, 0.25, "between"),
        (600, 2, 5, 1.0, "between"),
        (601, 5, 5, 0.0, "dearest"),
    ],
)
def test_runs_beside_a_number_of_tokens(tokens: float, lower: int, upper: int, weight: float, reach: str) -> None:
    runs = [ran(f"n={n}", "10", cost, "m", n) for n, cost in ((5, 600), (1, 100), (2, 200))]
    below, above, share, how = neighbours(runs, tokens)
    assert (below.contestant.samples, above.contestant.samples, share, how) == (lower, upper, weight, reach)


def test_at_equal_tokens_the_baseline_is_read_off_between_two_runs() -> None:
    council, refine, debate, mixture = compared(evaluation())
    single, sampled = council.rivals
    assert (single.baseline, single.accuracy, single.reach) == ("single", 0.7, "dearest")
    assert sampled.accuracy == pytest.approx(0.80)  # halfway from 150 to 170 of 200
    assert sampled.runs == ("best_of_n large n=2", "best_of_n large n=5")
    assert (sampled.weight, sampled.tokens) == (0.5, 400)
    assert sampled.difference == pytest.approx(0.10)
    assert sampled.standing == "ahead"
    assert refine.rivals[1].accuracy == pytest.approx((0.875 * 150 + 0.125 * 170) / 200)
    assert (refine.rivals[1].discordant, refine.rivals[1].standing) == (4, "level")  # 20 more differ by an eighth
    assert debate.rivals[1].standing == "loses"
    assert mixture.rivals[1].reach == "cheapest"


def test_standings_against_the_best_single() -> None:
    """refine is better on six tasks and worse on none, which is no chance, but within the single's interval."""
    assert [comparison.standing for comparison in compared(evaluation())] == ["beats", "ahead", "level", "loses"]


def test_the_sentences_say_it_plainly() -> None:
    chosen, council, refine, debate, mixture = report().sentences
    assert chosen.startswith("The best single member is large, 70.0% (63.3 to 75.9%): of the 2 that were asked alone")
    assert council.startswith(
        "council beats the best single member, large, outside its confidence interval. It is right in 90.0%, against "
        "70.0% (63.3 to 75.9%); the difference is +20.0 points (paired, 95% interval +14.5 to +25.5; McNemar p "
        "below 0.0001), at 4.0 times the tokens. At equal tokens (400) it is ahead of best_of_n of that member, "
        "80.0%: +10.0 points"
    )
    assert refine.startswith("refine is ahead of the best single member, large, but not outside its confidence")
    assert debate.startswith("debate is level with the best single member, large.")
    assert "At equal tokens (200) it loses to best_of_n of that member, 75.0%: -5.0 points" in debate
    assert mixture.startswith("mixture loses to the best single member, large. It is right in 60.0%")
    assert "Even one answer of that member costs more: 100 tokens to 90." in mixture
    assert "it loses to best_of_n of that member, 70.0% (already its cheapest run costs more, 100)" in mixture


@pytest.mark.parametrize(("count", "p"), [(1, 1.0), (2, 0.5), (3, 0.25), (5, 0.0625)])
def test_a_handful_of_tasks_decides_nothing(count: int, p: float) -> None:
    """All tasks differ alike, so that the bootstrap has no width."""
    best = ran("", "0" * count, 100, "large")
    sampled = (ran("best_of_n large n=2", "0" * count, 200, "large", 2),)
    deliberated = (ran("council", "1" * count, 150),)
    made = Evaluation((best,), best, deliberated, {"best_of_n": sampled})
    (council,) = compared(made)
    assert (council.interval.low, council.p, council.standing) == (1, p, "level")
    assert [rival.standing for rival in council.rivals] == ["level", "level"]
    sentence = Report(made, (council,), questions(count), ABOUT).sentences[1]
    assert "level with the best single member, large; the tasks are too few to tell more." in sentence
    assert "(+100.0 to +100.0); the tasks are too few to tell more." in sentence


def test_six_tasks_that_all_differ_alike_do() -> None:
    best = ran("", "0" * 6, 100, "large")
    (council,) = compared(Evaluation((best,), best, (ran("council", "1" * 6, 150),), {}))
    assert (council.p, council.standing, council.rivals[0].standing) == (0.03125, "beats", "ahead")
    (other,) = compared(Evaluation((best,), best, (ran("council", "1" * 5 + "0", 150),), {}))
    assert (other.interval.low > 0, other.standing) == (True, "level")


@pytest.mark.parametrize(("differ", "standing"), [(5, "level"), (6, "ahead")])
def test_between_two_runs_six_tasks_must_differ(differ: int, standing: str) -> None:
    """That the last task differs by a quarter makes no seventh."""
    best = ran("", "0" * 40, 100, "large")
    sampled = (ran("best_of_n large n=2", "0" * 39 + "1", 200, "large", 2),)
    council = ran("council", "1" * differ + "0" * (40 - differ), 125)
    (found,) = compared(Evaluation((best,), best, (council,), {"best_of_n": sampled}))
    rival = found.rivals[1]
    assert (rival.p, rival.discordant, rival.few) == (None, differ, False)
    assert rival.interval.low > 0
    assert rival.standing == standing


def test_runs_without_any_answer_are_no_cheap_end() -> None:
    best = ran("", row(140), 100, "large")
    broken = ran("best_of_n large n=2", "x" * COUNT, 0, "large", 2)
    dear = ran("best_of_n large n=3", row(170), 300, "large", 3)
    made = Evaluation((best,), best, (ran("council", row(150), 50),), {"best_of_n": (broken, dear)})
    (council,) = compared(made)
    assert (council.rivals[1].runs, council.rivals[1].reach) == (("single large",), "cheapest")


def test_a_strategy_that_never_answers_has_no_tokens_to_compare_at() -> None:
    best = ran("", row(140), 100, "large")
    made = Evaluation((best,), best, (ran("council", "x" * COUNT),), {})
    (council,) = compared(made)
    assert (council.standing, council.rivals) == ("loses", ())
    assert "at ? times the tokens." in Report(made, (council,), questions(COUNT), ABOUT).sentences[1]


def test_answers_without_a_member_are_counted() -> None:
    made = ran("council", row(180), 400)
    missed = [replace(outcome, absent=2) for outcome in made.outcomes[:3]]
    council = Ran(made.contestant, (*missed, *made.outcomes[3:]))
    best = ran("", row(140), 100, "large")
    evaluation = Evaluation((best,), best, (council,), {}, left_out=("inner",))
    report = Report(evaluation, compared(evaluation), questions(COUNT), ABOUT)
    head, _, line = report.accuracy_rows()
    assert (head[-2:], line[-2:]) == (["failed", "absent"], ["0", "3"])
    assert [each["absent"] for each in report.to_json()["contestants"]] == [0, 3]
    assert report.sentences[0].endswith("Not asked alone, being tribunals themselves: inner.")


def test_what_the_figures_rest_on_is_said() -> None:
    text = report().markdown()
    assert "a call that was cancelled counts by an estimate of its prompt" in text
    assert "Its cheap end is the single answer, at temperature 0" in text
    assert "at 0.7 if it has none or 0" in text


def test_a_baseline_that_ends_before_is_marked() -> None:
    best = ran("", row(140), 100, "large")
    sampled = (ran("best_of_n large n=2", row(150), 200, "large", 2),)
    made = Evaluation((best,), best, (ran("council", row(160), 400),), {"best_of_n": sampled})
    sentence = Report(made, compared(made), questions(COUNT), ABOUT).sentences[1]
    assert "best_of_n of that member, 75.0% (its dearest run costs less, 200): +5.0 points" in sentence


def test_the_written_report(tmp_path: Path) -> None:
    report().write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| council | 200 | 90.0% | 85.1 to 93.4% | 400 | 1.0 | 0.50 | 0.50 | 2.250 | 0 | 0 |" in text
    assert "| contestant | kind / of (200) |" in text
    assert "| mixture | 90 | 60.0% | single | 70.0% | -10.0 | -14.5 to -6.0 | loses |" in text
    assert "mixture loses to the best single member" in text
    assert "unparsed" not in text
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["best_single"] == "single large"
    assert [each["standing"] for each in data["comparisons"]] == ["beats", "ahead", "level", "loses"]
    assert data["contestants"][0]["by_tag"] == {"kind | of": {"right": 90, "n": 200}}
    assert data["tribunal"]["name"] == "default"
    assert report().summary()["standings"]["mixture"] == "loses"


def test_without_strategies_of_several_there_is_no_comparison(tmp_path: Path) -> None:
    best = ran("", row(140), 100, "large")
    text = Report(Evaluation((best,), best, (), {}), (), questions(COUNT), ABOUT).markdown()
    assert "At equal tokens\n\n|" not in text
    assert "By kind" not in text


def test_the_picture_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_plot(evaluation(), tmp_path / name)
    svg = (tmp_path / "a" / "accuracy_by_tokens.svg").read_bytes()
    assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert svg == (tmp_path / "b" / "accuracy_by_tokens.svg").read_bytes()
    png = (tmp_path / "a" / "accuracy_by_tokens.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert png == (tmp_path / "b" / "accuracy_by_tokens.png").read_bytes()
