"""Figures of requests whose times are written down here, computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.records import Driven, EngineFigures, Fault, Kind, Limits, Sample, Side
from loadtests.sweep.figures import figures_of, kept, measurement_of, percentile, rows_of, spread_of
from tests.unit.load_sweep_fakes import BEGAN, point

STREAMED = Sample(0.0, 0.0, 0.5, (0.1, 0.2, 0.5), 8, 3)
"""TTFT 100 ms, gaps 100 and 300 ms, TPOT 200 ms, end-to-end 500 ms."""
SECOND = Sample(1.0, 1.0, 1.4, (1.2, 1.4), 8, 2)
"""TTFT 200 ms, gap 200 ms, TPOT 200 ms, end-to-end 400 ms."""
FAILED = Sample(1.0, 1.0, 9.0, (8.0,), 8, 1, Fault.BROKEN_STREAM, "cut off")
WHOLE = Sample(0.0, 0.0, 0.4, (), 8, 5)
SIDE = Side(name="corral", url="http://corral.example", gpus=2)


def driven(*samples: Sample, seconds: float = 2.0) -> Driven:
    return Driven(samples, seconds, BEGAN)


def test_rates_are_of_answered_requests_over_the_window() -> None:
    found = figures_of(driven(STREAMED, SECOND, FAILED), limits=Limits(), gpus=2)
    assert (found.requests, found.failed, found.faults) == (3, 1, {"broken_stream": 1})
    assert (found.requests_per_s, found.output_tokens_per_s, found.input_tokens_per_s) == (1.0, 2.5, 8.0)
    assert found.output_tokens_per_s_per_gpu == 1.25
    assert found.gpu_seconds_per_1k_tokens == 800
    assert (found.goodput_per_s, found.good_share) == (1.0, 2 / 3)


def test_latencies_are_in_milliseconds_with_linear_percentiles() -> None:
    found = figures_of(driven(STREAMED, SECOND), limits=Limits(), gpus=None)
    assert found.ttft is not None
    assert found.itl is not None
    assert found.tpot is not None
    assert found.e2e is not None
    assert (found.ttft.count, found.ttft.mean, found.ttft.p50, found.ttft.p90) == (2, 150, 150, 190)
    assert (found.itl.count, found.itl.p50, found.itl.p95) == (3, 200, 290)
    assert (found.tpot.mean, found.e2e.p50) == (200, 450)
    assert found.output_tokens_per_s_per_gpu is found.gpu_seconds_per_1k_tokens is None


def test_a_curve_has_every_whole_percentile() -> None:
    spread = spread_of([each / 1000 for each in range(101)])
    assert spread is not None
    assert spread.curve == tuple(float(each) for each in range(101))
    assert (spread.p50, spread.p90, spread.p95, spread.p99) == (50, 90, 95, 99)


def test_a_kept_millisecond_is_rounded_to_the_microsecond() -> None:
    spread = spread_of([0.0123456789])
    assert spread is not None
    assert (spread.p50, spread.mean) == (12.346, 12.346)


def test_nothing_has_no_spread_and_no_percentile() -> None:
    assert spread_of([]) is None
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


def test_one_answer_without_a_token_count_leaves_the_measurement_without_tokens_per_second() -> None:
    found = figures_of(driven(STREAMED, replace(SECOND, output_tokens=None)), limits=Limits(), gpus=2)
    assert found.output_tokens_per_s is found.output_tokens_per_s_per_gpu is found.gpu_seconds_per_1k_tokens is None
    assert found.input_tokens_per_s == 8.0
    assert found.tpot is not None
    assert found.tpot.count == 1


def test_a_count_that_only_a_failed_request_lacks_is_not_missed() -> None:
    found = figures_of(driven(STREAMED, replace(FAILED, output_tokens=None)), limits=Limits(), gpus=None)
    assert found.output_tokens_per_s == 1.5


def test_only_failures_are_no_tokens_and_no_latency() -> None:
    found = figures_of(driven(FAILED), limits=Limits(), gpus=2)
    assert (found.requests_per_s, found.output_tokens_per_s, found.good_share) == (0, 0, 0)
    assert found.ttft is found.itl is found.tpot is found.e2e is None
    assert found.gpu_seconds_per_1k_tokens is None


def test_no_request_at_all_is_a_measurement_too() -> None:
    found = measurement_of(driven(seconds=0), side=SIDE, point=point(), repeat=0, limits=Limits())
    assert (found.figures.requests, found.figures.requests_per_s, found.figures.good_share) == (0, 0, None)
    assert found.notices == ("no request ended in this measurement: there is nothing to compute from",)


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        (Limits(), 2),
        (Limits(ttft_ms=150), 1),
        (Limits(ttft_ms=200), 2),
        (Limits(itl_ms=250), 1),
        (Limits(itl_ms=290), 2),
        (Limits(tpot_ms=199), 0),
        (Limits(e2e_ms=450), 1),
        (Limits(ttft_ms=150, e2e_ms=450), 0),
    ],
)
def test_goodput_counts_requests_that_keep_every_limit(limits: Limits, good: int) -> None:
    found = figures_of(driven(STREAMED, SECOND, FAILED), limits=limits, gpus=None)
    assert (found.goodput_per_s, found.good_share) == (good / 2, good / 3)


def test_an_answer_that_came_whole_is_held_to_the_ttft_limit_at_its_end() -> None:
    assert not kept(WHOLE, Limits(ttft_ms=300))
    assert kept(WHOLE, Limits(ttft_ms=500, itl_ms=1, tpot_ms=1))


def test_one_token_has_no_time_between_tokens() -> None:
    assert kept(Sample(0, 0, 0.2, (0.1,), 8, 1), Limits(itl_ms=1, tpot_ms=1))


def test_a_token_count_that_was_not_told_keeps_no_limit_on_time_per_token() -> None:
    assert not kept(replace(STREAMED, output_tokens=None), Limits(tpot_ms=1e9))


def test_latency_counts_from_when_a_request_was_due() -> None:
    found = figures_of(driven(replace(STREAMED, began_s=0.05)), limits=Limits(), gpus=None)
    assert found.ttft is not None
    assert found.late is not None
    assert (found.ttft.p50, found.late.p50) == (100, 50)


def test_a_closed_loop_is_never_late() -> None:
    assert figures_of(driven(STREAMED), limits=Limits(), gpus=None).late is None


def test_the_engine_is_passed_on() -> None:
    engine = EngineFigures(running_mean=3)
    assert figures_of(replace(driven(), engine=engine), limits=Limits(), gpus=None).engine == engine


def test_rows_are_in_order_and_hide_the_first_token_of_a_failed_request() -> None:
    first, second = rows_of(driven(FAILED, STREAMED))
    assert (first.began, first.ttft, first.ended, first.tokens, first.fault) == (0, 100, 500, 3, None)
    assert (second.began, second.ttft, second.ended, second.fault) == (1000, None, 9000, "broken_stream")


def test_a_row_of_a_late_request_has_its_first_token_where_it_came() -> None:
    (row,) = rows_of(driven(replace(STREAMED, due_s=-3.0)))
    assert row.ttft is not None
    assert row.began + row.ttft == 100


def test_what_is_doubtful_is_said() -> None:
    late = replace(STREAMED, due_s=-0.05, output_tokens=30)
    found = measurement_of(
        replace(driven(late, FAILED), notices=("the clock jumped",)),
        side=SIDE,
        point=point(),
        repeat=1,
        limits=Limits(),
    )
    assert (found.side, found.repeat, found.began_at, len(found.rows)) == ("corral", 1, BEGAN, 2)
    assert found.notices == (
        "the clock jumped",
        "an event carried 10.0 tokens on average: ITL is the time between events, not tokens",
        "the client itself sent late (95th percentile 48 ms): latencies contain that",
        "first broken_stream: cut off",
    )


def per_gpu(side: Side, kind: Kind = Kind.CHAT, model: str = "m") -> float | None:
    at = point(model=model).model_copy(update={"kind": kind})
    found = measurement_of(driven(STREAMED, SECOND), side=side, point=at, repeat=0, limits=Limits())
    return found.figures.output_tokens_per_s_per_gpu


def test_each_model_has_its_own_gpus() -> None:
    side = SIDE.model_copy(update={"gpus": None, "gpus_of": {"small": 1, "large": 4, "on-cpu": 0}})
    assert [per_gpu(side, model=each) for each in ("small", "large", "on-cpu", "other")] == [2.5, 0.625, None, None]
    assert per_gpu(SIDE, model="any") == 1.25


@pytest.mark.parametrize("kind", [Kind.TRIBUNAL, Kind.RAG])
def test_what_several_models_answer_has_no_figure_per_gpu(kind: Kind) -> None:
    assert per_gpu(SIDE, kind) is None


def test_a_side_that_was_written_down_before_models_had_gpus_is_read() -> None:
    old = Side.model_validate_json('{"name": "corral", "url": "http://corral.example", "gpus": 2.0, "server": ""}')
    assert old == SIDE


def test_a_clean_measurement_has_no_notices() -> None:
    found = measurement_of(driven(STREAMED, SECOND), side=SIDE, point=point(), repeat=0, limits=Limits())
    assert found.notices == ()


seconds = st.floats(0, 1e4)


@st.composite
def samples(draw: st.DrawFn, *, faults: bool) -> Sample:
    due = draw(seconds)
    began = due + draw(st.floats(0, 1))
    times = sorted(began + each for each in draw(st.lists(seconds, max_size=6)))
    return Sample(
        due_s=due,
        began_s=began,
        ended_s=max([began, *times]),
        times_s=tuple(times),
        output_tokens=draw(st.none() | st.integers(0, 100)),
        input_tokens=draw(st.none() | st.integers(0, 100)),
        fault=draw(st.sampled_from(Fault)) if faults else None,
    )


limits_ms = st.none() | st.floats(0.1, 1e7)
limits_set = st.builds(Limits, ttft_ms=limits_ms, itl_ms=limits_ms, tpot_ms=limits_ms, e2e_ms=limits_ms)


@settings(deadline=None, max_examples=50)
@given(st.lists(samples(faults=False), max_size=8), st.lists(samples(faults=True), max_size=8), limits_set)
def test_failed_requests_move_no_latency_and_no_rate(good: list[Sample], bad: list[Sample], limits: Limits) -> None:
    alone = figures_of(driven(*good), limits=limits, gpus=2)
    among = figures_of(driven(*bad, *good), limits=limits, gpus=2)
    counted = {"requests", "failed", "faults", "good_share", "late"}
    assert among.model_dump(exclude=counted) == alone.model_dump(exclude=counted)
    assert (among.requests, among.failed) == (len(good) + len(bad), len(bad))
    assert sum(among.faults.values()) == len(bad)


@settings(deadline=None, max_examples=50)
@given(st.lists(samples(faults=False) | samples(faults=True), max_size=12), limits_set)
def test_goodput_never_exceeds_what_was_answered_and_a_limit_never_raises_it(
    all_: list[Sample], limits: Limits
) -> None:
    free = figures_of(driven(*all_), limits=Limits(), gpus=None)
    held = figures_of(driven(*all_), limits=limits, gpus=None)
    assert free.goodput_per_s == free.requests_per_s
    assert 0 <= (held.goodput_per_s or 0) <= (free.goodput_per_s or 0)
    assert held.good_share is None or 0 <= held.good_share <= 1


@settings(deadline=None, max_examples=50)
@given(st.lists(seconds, min_size=1, max_size=40))
def test_a_distribution_rises_and_stays_within_its_values(values: list[float]) -> None:
    spread = spread_of(values)
    assert spread is not None
    assert list(spread.curve) == sorted(spread.curve)
    assert len(spread.curve) == 101
    for place, value in ((0, min(values)), (100, max(values))):
        assert spread.curve[place] == pytest.approx(value * 1000, abs=1e-3)
    assert spread.curve[0] <= spread.p50 <= spread.p90 <= spread.p95 <= spread.p99 <= spread.curve[100]
