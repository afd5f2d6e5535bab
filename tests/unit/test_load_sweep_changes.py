"""Two endpoints held together, and two runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from loadtests.records import Calibration, Interval, Limits, Measurement, Plan, Point, Run
from loadtests.sweep.changes import Change, cautions, changes
from loadtests.sweep.errors import BenchError
from loadtests.sweep.side_by_side import differences, ratios
from tests.unit.load_sweep_fakes import MACHINE, figures, measurement, plan, point, run_of


def repeats(rates: Sequence[float | None], side: str = "corral", at: Point | None = None) -> list[Measurement]:
    return [measurement(at or point(), repeat, side, figures(rate)) for repeat, rate in enumerate(rates)]


def change(before: Run, after: Run, figure: str = "output_tokens_per_s") -> Change:
    (found,) = [each for each in changes(before, after) if each.figure == figure]
    return found


def verdict(before: Sequence[float], after: Sequence[float], figure: str = "output_tokens_per_s") -> str:
    return change(run_of(repeats(before)), run_of(repeats(after)), figure).verdict


def test_a_ratio_pairs_the_repeats_that_were_measured_in_turn() -> None:
    run = run_of([*repeats([90, 45, 100, 7]), *repeats([100, 50, 100], "bare")])
    (found,) = [each for each in ratios(run, "corral", "bare") if each.figure == "output_tokens_per_s"]
    assert (found.ratio.value, found.ratio.repeats) == (0.9, 3)
    assert (found.ours, found.other) == pytest.approx((235 / 3, 250 / 3))
    (turned,) = [each for each in ratios(run, "bare", "corral") if each.figure == "output_tokens_per_s"]
    assert turned.ratio.value == pytest.approx(1 / 0.9)


def test_ratios_follow_the_plan_and_leave_out_what_has_none() -> None:
    measured = [
        *repeats([1], at=point(1)),
        *repeats([None], at=point(2)),
        *repeats([3], at=point(4)),
        *repeats([2], "bare", point(1)),
        *repeats([2], "bare", point(2)),
    ]
    found = ratios(run_of(measured), "corral", "bare")
    assert [each.point.concurrency for each in found] == sorted(each.point.concurrency or 0 for each in found)
    assert [each.ratio for each in found if each.figure == "output_tokens_per_s"] == [Interval(value=0.5)]
    assert "failed_share" not in {each.figure for each in found}
    assert {each.point for each in found} == {point(1), point(2)}


def test_differences_are_there_where_the_other_side_has_nothing() -> None:
    run = run_of([*repeats([2]), *repeats([0], "bare")])
    found = {each.figure: each.difference for each in differences(run, "corral", "bare")}
    assert (found["output_tokens_per_s"], found["failed_share"]) == (Interval(value=2), Interval(value=0))
    assert "output_tokens_per_s" not in {each.figure for each in ratios(run, "corral", "bare")}


class Counted(list[Measurement]):
    """How often somebody went through it."""

    times = 0

    def __iter__(self) -> Iterator[Measurement]:
        self.times += 1
        return super().__iter__()


def test_the_measurements_of_a_run_are_gone_through_once() -> None:
    measured = Counted(each for users in range(1, 9) for side in ("corral", "bare") for each in one(users, side))
    run = Run(run_of(measured).record, measured)
    measured.times = 0
    assert ratios(run, "corral", "bare")
    assert changes(run, run)
    assert measured.times == 1


def one(users: int, side: str) -> list[Measurement]:
    return repeats([1, 1], side, point(users))


def test_a_side_that_was_not_measured_is_named() -> None:
    with pytest.raises(BenchError, match="no 'other'; it has corral, bare"):
        ratios(run_of([*repeats([1]), *repeats([1], "bare")]), "corral", "other")


def test_a_change_beyond_the_noise_is_better_or_worse_by_what_the_figure_is() -> None:
    assert verdict([100, 101, 99], [120, 121, 119]) == "better"
    assert verdict([120, 121, 119], [100, 101, 99]) == "worse"
    slower = [measurement(point(), at, of=figures(ms=ms)) for at, ms in enumerate((20, 21, 19))]
    assert change(run_of(repeats([1, 1, 1])), run_of(slower), "ttft_p95").verdict == "worse"


def test_a_change_within_the_noise_is_none() -> None:
    assert verdict([100, 140, 60], [120, 121, 119]) == "within the noise"
    assert verdict([100, 100, 100], [101, 101, 101]) == "within the noise"
    assert verdict([100, 100, 100], [100, 100, 100]) == "within the noise"


def test_the_change_is_relative_with_its_interval() -> None:
    found = change(run_of(repeats([100, 101, 99])), run_of(repeats([120, 121, 119])))
    assert (found.before.value, found.after.value, found.side) == (100, 120, "corral")
    assert found.change is not None
    assert found.change.value == pytest.approx(0.2)
    assert found.change.low is not None
    assert 0 < found.change.low < 0.2


def test_single_repeats_are_not_comparable_but_one_borrows_the_others_noise() -> None:
    assert verdict([100], [300]) == "not comparable"
    assert verdict([100, 101, 99], [300]) == "better"
    assert verdict([100, 101, 99], [104]) == "within the noise"


def test_failures_where_there_were_none_are_seen() -> None:
    failing = [measurement(point(), at, of=figures(failed=failed)) for at, failed in enumerate((3, 3, 4))]
    found = change(run_of(repeats([1, 1, 1])), run_of(failing), "failed_share")
    assert (found.verdict, found.change, found.before.value) == ("worse", None, 0)
    healed = change(run_of(failing), run_of(repeats([1, 1, 1])), "failed_share")
    assert (healed.verdict, healed.change and healed.change.value) == ("better", -1)


def test_only_figures_and_points_of_both_are_compared() -> None:
    before = run_of([*repeats([1, 1], at=point(1)), *repeats([1, 1], at=point(2))])
    after = run_of([*repeats([None, None], at=point(2)), *repeats([1, 1], at=point(4))])
    found = changes(before, after)
    assert {each.point.concurrency for each in found} == {2}
    assert "output_tokens_per_s" not in {each.figure for each in found}
    assert cautions(before, after) == [
        "only before: m, chat, 8:10 tokens, users, 1 user",
        "only after: m, chat, 8:10 tokens, users, 4 users",
    ]


def test_endpoints_are_compared_by_name_or_each_runs_only_one() -> None:
    both = run_of([*repeats([1]), *repeats([2], "bare")])
    assert {each.side for each in changes(both, both)} == {"corral", "bare"}
    assert {each.side for each in changes(both, run_of(repeats([2], "bare")))} == {"bare"}
    only = change(run_of(repeats([1, 1])), run_of(repeats([2, 2], "renamed")))
    assert (only.side, only.after.value) == ("corral", 2)
    with pytest.raises(BenchError, match="no endpoint in common: corral, bare before, x after"):
        changes(both, run_of(repeats([1], "x")))


def test_what_else_differs_is_said() -> None:
    measured = repeats([1])
    other = MACHINE.model_copy(update={"cpu": "Slide rule", "versions": {"vllm": "2"}, "gpus": ("H200", "H200")})
    before = run_of(measured)
    after = run_of(measured, plan(limits=Limits(ttft_ms=9)), other)
    after = Run(after.record.model_copy(update={"ended_because": "interrupted"}), measured)
    assert cautions(before, after) == [
        "the machines differ in cpu: Abacus before, Slide rule after",
        "the machines differ in gpus: none before, H200 and H200 after",
        "the machines differ in versions: none before, vllm 2 after",
        "the plans differ in limits: none before, 9 ms TTFT after",
        "the run after ended early: interrupted",
    ]


def configured(of: dict[str, Any], asked: Plan | None = None) -> Run:
    run = run_of(repeats([1]), asked)
    return Run(run.record.model_copy(update={"configuration": of}), run.measurements)


def model(**engine: object) -> dict[str, Any]:
    return {"models": {"m": {"source": "pocket:m", "engine": engine}}}


def test_configurations_that_differ_are_told_by_the_fields() -> None:
    before = configured(model(max_num_seqs=64, block_size=16))
    after = configured(model(max_num_seqs=256, block_size=16, async_scheduling=True))
    (told,) = cautions(before, after)
    assert told == ("the configurations differ in models.m.engine.max_num_seqs, models.m.engine.async_scheduling")
    assert cautions(before, before) == []
    assert cautions(before, configured({})) == ["the configuration after is not known"]


def test_of_many_fields_only_the_first_are_told() -> None:
    many = {f"field{number}": number for number in range(20)}
    (told,) = cautions(configured(model(**many)), configured(model(**dict.fromkeys(many, "x"))))
    assert told.endswith("models.m.engine.field11 and 8 more")


def test_what_of_a_plan_changes_its_figures_is_told() -> None:
    old = plan().model_copy(update={"calibrations": {"m": Calibration(words_per_token=1)}})
    new = old.model_copy(
        update={"timeout_s": 9.5, "min_requests": 1, "calibrations": {"m": Calibration(words_per_token=2)}}
    )
    assert cautions(run_of(repeats([1]), old), run_of(repeats([1]), new)) == [
        "the plans differ in min_requests: 8 before, 1 after",
        "the plans differ in timeout_s: 600 before, 9.5 after",
        "the plans differ in how words become tokens of m",
    ]


def test_gpus_are_compared_model_by_model() -> None:
    before = run_of(repeats([1]))
    sides = [
        before.record.plan.sides[0].model_copy(update={"gpus": gpus, "gpus_of": {"m": of}})
        for gpus, of in ((None, 2.0), (None, 4.0))
    ]
    same, other = (run_of(repeats([1]), before.record.plan.model_copy(update={"sides": (side,)})) for side in sides)
    assert cautions(before, same) == []
    assert cautions(before, other) == ["the endpoints differ in the GPUs of m: 2 before, 4 after"]


def test_equal_runs_need_no_caution() -> None:
    assert cautions(run_of(repeats([1])), run_of(repeats([2]))) == []


def test_another_server_version_is_said() -> None:
    before = run_of(repeats([1]))
    side = before.record.plan.sides[0].model_copy(update={"server": "vLLM 9"})
    after = run_of(repeats([1]), before.record.plan.model_copy(update={"sides": (side,)}))
    assert cautions(before, after) == ["the endpoints differ in server: unknown before, vLLM 9 after"]
