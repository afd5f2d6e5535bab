"""Aims: which points they concern, and whether they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from pydantic import ValidationError

from loadtests.records import Interval, Point, Run
from loadtests.report.aims import Aim, Judged, Of
from loadtests.report.contents import contents_of
from tests.unit.load_report import CORRAL, OTHER, a_run, failed, spread

AT_ONE = Point(model="llama-3.2-1b", concurrency=1)


def test_an_aim_has_one_bound_and_a_figure_that_there_is() -> None:
    with pytest.raises(ValidationError, match="give at_least or at_most"):
        Aim(figure="itl_p95")
    with pytest.raises(ValidationError, match="give at_least or at_most"):
        Aim(figure="itl_p95", at_least=1, at_most=2)
    with pytest.raises(ValidationError, match="no figure is called 'itl_p96'; there are requests_per_s"):
        Aim(figure="itl_p96", at_most=1)


def test_an_aim_says_what_it_asks() -> None:
    assert Aim(figure="itl_p95", at_most=10).sentence == "ITL p95 at most 10 ms"
    ratio = Aim(figure="output_tokens_per_s", of="ratio", at_least=0.95)
    assert ratio.sentence == "output tokens/s: ratio at least 0.95"


@pytest.mark.parametrize(
    ("model", "concurrency", "concerned"),
    [
        ("", (), True), ("1b", (), True), ("1B", (1, 2), True), ("llama-3.2-1b", (), True),
        ("3b", (), False), ("", (2,), False),
    ],
)  # fmt: skip
def test_an_aim_concerns_models_by_name_or_size_and_loads(
    model: str, concurrency: tuple[int, ...], concerned: bool
) -> None:
    assert Aim(figure="itl_p95", at_most=1, model=model, concurrency=concurrency).concerns(AT_ONE) is concerned


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (Interval(value=9, low=8, high=9.5, repeats=3), "kept"),
        (Interval(value=9, low=8, high=10.5, repeats=3), "kept, within the noise"),
        (Interval(value=12, low=11, high=13, repeats=3), "missed"),
        (Interval(value=12, low=9, high=13, repeats=3), "missed, within the noise"),
        (Interval(value=9), "kept, within the noise"),
        (None, "not measured"),
    ],
)
def test_a_verdict_knows_the_noise(found: Interval | None, verdict: str) -> None:
    assert Judged(Aim(figure="itl_p95", at_most=10), AT_ONE, found).verdict == verdict


def test_values_ratios_and_differences_are_judged_for_our_side() -> None:
    aims = [
        Aim(figure="itl_p95", at_most=1000, concurrency=(1,), model="1b"),
        Aim(figure="output_tokens_per_s", of="ratio", at_least=2.0, concurrency=(1,), model="1b"),
        Aim(figure="ttft_p50", of="difference", at_most=3, concurrency=(1,), model="1b"),
        Aim(figure="itl_p95", at_most=10, model="3b"),
    ]
    contents = contents_of(a_run(loads=(1,), sides=(CORRAL, OTHER)), aims=aims)
    assert [each.kept for each in contents.judged] == [True, False, True, None]
    assert contents.judged[-1].point is None


def told(run: Run, *aims: Aim) -> list[tuple[int | None, str]]:
    """Users and verdict, aim by aim."""
    return [
        (each.point.concurrency if each.point else None, each.verdict) for each in contents_of(run, aims=aims).judged
    ]


def without(run: Run, *gone: tuple[str, int]) -> Run:
    left = [each for each in run.measurements if (each.point.model, each.point.concurrency) not in gone]
    return replace(run, measurements=left)


@pytest.mark.parametrize("of", ["value", "ratio", "difference"])
def test_users_that_an_aim_names_are_judged_measured_or_not(of: Of) -> None:
    run = a_run(models=("llama-3.2-1b",), loads=(1, 64), sides=(CORRAL, OTHER))
    aim = Aim(figure="itl_p95", of=of, at_most=1000, concurrency=(1, 64, 128))
    unplanned = (128, "not measured")
    assert told(run, aim) == [(1, "kept"), (64, "kept"), unplanned]
    assert told(without(run, ("llama-3.2-1b", 64)), aim) == [(1, "kept"), (64, "not measured"), unplanned]


def test_users_that_an_aim_names_are_judged_for_every_model() -> None:
    run = without(a_run(models=("a", "b"), loads=(32, 64)), ("b", 64))
    found = contents_of(run, aims=[Aim(figure="itl_p95", at_most=1000, concurrency=(64,))]).judged
    assert [(each.point and each.point.model, each.kept) for each in found] == [("a", True), ("b", None)]


def test_an_aim_without_users_is_about_what_was_measured_and_about_series_that_never_began() -> None:
    run = a_run(models=("a", "b"), loads=(1, 2, 4))
    aim = Aim(figure="itl_p95", at_most=1000)
    stopped = without(run, ("a", 4))
    assert told(stopped, aim) == [(1, "kept"), (2, "kept"), (1, "kept"), (2, "kept"), (4, "kept")]
    never = without(stopped, *(("b", users) for users in (1, 2, 4)))
    assert told(never, aim) == [(1, "kept"), (2, "kept"), (1, "not measured")]


def with_first_tokens(run: Run, side: str, first_ms: Sequence[float]) -> Run:
    """The same with these TTFT in the repeats of one side."""
    measured = []
    for each in run.measurements:
        ms = first_ms[each.repeat]
        figures = each.figures.model_copy(update={"ttft": spread([ms]), "failed": 0})
        measured.append(each.model_copy(update={"figures": figures}) if each.side == side else each)
    return replace(run, measurements=measured)


def test_a_difference_is_of_the_pairs_and_has_their_interval() -> None:
    aim = Aim(figure="ttft_p50", of="difference", at_most=3)
    run = a_run(models=("llama-3.2-1b",), loads=(1,), sides=(CORRAL, OTHER))
    run = with_first_tokens(run, "vllm", (100, 50, 20))
    (close,) = contents_of(with_first_tokens(run, "corral", (99, 49, 19.3)), aims=[aim]).judged
    assert close.found is not None
    assert close.found.value == pytest.approx(-1)
    assert (close.found.repeats, close.verdict) == (3, "kept")
    (noisy,) = contents_of(with_first_tokens(run, "corral", (99, 59, 12)), aims=[aim]).judged
    assert noisy.verdict == "kept, within the noise"


def test_a_difference_from_nothing_is_one() -> None:
    aim = Aim(figure="failed_share", of="difference", at_most=0)
    run = a_run(models=("llama-3.2-1b",), loads=(1,), sides=(CORRAL, OTHER))
    assert told(run, aim) == [(1, "kept")]
    first, *others = run.measurements
    assert first.side == "corral"
    failing = replace(run, measurements=[failed(first), *others])
    assert told(failing, aim.model_copy(update={"at_most": 0.5})) == [(1, "kept, within the noise")]
