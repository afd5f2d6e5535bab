"""A run over its repeats: intervals, saturation, and how many users it holds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loadtests.records import EngineFigures, Figures, Interval, Kind, Limits, Measurement, Run, Saturation
from loadtests.sweep.aggregate import FIGURES, aggregates, limits_in_words, saturations
from tests.unit.load_sweep_fakes import figures, measurement, plan, point, run_of

LIMITS = Limits(itl_ms=50)
USERS = (1, 2, 4, 8)


def series(
    rates: Sequence[float | None], shares: Sequence[float | None] | None = None, limits: Limits = LIMITS
) -> Saturation:
    shares = shares or [1.0] * len(rates)
    users = USERS[: len(rates)]
    measured = [
        measurement(point(at), of=figures(rate, good)) for at, rate, good in zip(users, rates, shares, strict=True)
    ]
    (found,) = saturations(run_of(measured, plan(*(point(at) for at in users), limits=limits)))
    return found


def test_every_name_of_the_contract_is_there() -> None:
    latencies = [
        f"{name}_{part}" for name in ("ttft", "itl", "tpot", "e2e") for part in ("p50", "p90", "p95", "p99", "mean")
    ]
    assert list(FIGURES) == [
        *("requests_per_s", "output_tokens_per_s", "output_tokens_per_s_per_gpu", "gpu_seconds_per_1k_tokens"),
        *("goodput_per_s", "good_share", *latencies, "failed_share", "queue_time_mean"),
    ]
    assert (FIGURES["ttft_p95"].label, FIGURES["ttft_p95"].unit, FIGURES["ttft_p95"].better) == (
        "TTFT p95",
        "ms",
        "lower",
    )
    assert all(each.name == name for name, each in FIGURES.items())


def test_a_figure_is_found_or_none() -> None:
    full = figures(rate=50, ms=7, failed=5).model_copy(update={"engine": EngineFigures(queue_time_mean_ms=3)})
    assert {name: FIGURES[name].of(full) for name in ("ttft_p99", "itl_p50", "failed_share", "queue_time_mean")} == {
        "ttft_p99": 7,
        "itl_p50": None,
        "failed_share": 0.5,
        "queue_time_mean": 3,
    }
    empty = Figures(requests=0, failed=0, seconds=0, requests_per_s=0)
    assert {name for name, each in FIGURES.items() if each.of(empty) is not None} == {"requests_per_s"}


def test_repeats_become_intervals_in_the_plans_order() -> None:
    def repeats(users: int, side: str, rates: Sequence[float]) -> list[Measurement]:
        return [measurement(point(users), at, side, figures(rate, failed=1)) for at, rate in enumerate(rates)]

    measured = [*repeats(2, "b", (5, 5, 5)), *repeats(1, "a", (1, 2, 3)), *repeats(1, "b", (4,))]
    found = aggregates(run_of(measured, plan(point(1), point(2), sides=("a", "b"))))
    assert [(each.point.concurrency, each.side) for each in found] == [(1, "a"), (1, "b"), (2, "b")]
    rate = found[0].figures["output_tokens_per_s"]
    assert (rate.value, rate.repeats) == (2, 3)
    assert rate.high == pytest.approx(2 + 4.303 / 3**0.5)
    assert found[1].figures["output_tokens_per_s"] == Interval(value=4)
    assert (found[0].requests, found[0].failed, found[0].faults) == (30, 3, {"timeout": 3})


def test_a_notice_of_several_repeats_is_told_once() -> None:
    measured = [measurement(point(), at).model_copy(update={"notices": ("slow", f"{at}")}) for at in (1, 0)]
    (found,) = aggregates(run_of(measured))
    assert found.notices == ("slow", "0", "1")


def test_no_measurement_is_no_aggregate() -> None:
    run = Run(run_of([measurement(point())]).record)
    assert aggregates(run) == []
    assert saturations(run) == []


def test_saturation_is_where_95_of_100_are_reached_first() -> None:
    found = series([50, 94.9, 95, 100])
    assert (found.concurrency, found.output_tokens_per_s, found.holds) == (4, 100, 8)
    assert found.sentence == (
        "holds at least 8 concurrent users under 50 ms ITL p95; "
        "throughput saturates at 4 concurrent users: at most 100 tokens/s"
    )


def test_throughput_that_falls_again_saturated_before() -> None:
    assert series([50, 1234, 900, 800]).concurrency == 2
    assert "at 2 concurrent users: at most 1,234 tokens/s" in series([50, 1234, 900, 800]).sentence


def test_what_never_saturated_is_not_said_to() -> None:
    found = series([1, 2, 4, 8])
    assert (found.concurrency, found.output_tokens_per_s) == (None, 8)
    assert found.sentence.endswith("throughput did not saturate up to 8 concurrent users: 8 tokens/s")


def test_it_holds_the_most_users_below_whom_all_were_held() -> None:
    found = series([1, 2, 4, 8], [1, 0.99, 0.98, 1])
    assert found.holds == 2
    assert found.sentence.startswith("holds 2 concurrent users under 50 ms ITL p95; ")


def test_it_may_hold_none() -> None:
    found = series([1, 2], [0.5, 1])
    assert found.holds == 0
    assert found.sentence.startswith("does not hold 1 concurrent user under 50 ms ITL p95; ")
    assert series([1], [None]).holds == 0


def test_without_limits_nothing_is_said_to_be_held() -> None:
    found = series([1, 1], limits=Limits())
    assert found.holds is None
    assert found.sentence == "no limits were set; throughput saturates at 1 concurrent user: at most 1 tokens/s"


def test_where_counts_are_missing_requests_are_held_against_requests() -> None:
    found = series([100, None])
    assert (found.concurrency, found.output_tokens_per_s) == (1, None)
    assert found.sentence.endswith("throughput saturates at 1 concurrent user: at most 10 requests/s")


def test_where_nothing_was_answered_nothing_saturates() -> None:
    found = series([0, 0], [0, 0])
    assert found.concurrency is None
    assert found.sentence.endswith("no request was answered")


def test_sides_models_kinds_and_lengths_saturate_each_by_itself_and_arrivals_do_not() -> None:
    long = point(4).model_copy(update={"output_tokens": 99})
    bulk = point(4).model_copy(update={"kind": Kind.BULK})
    rate = point().model_copy(update={"concurrency": None, "rate": 2.0})
    points = [point(4), point(4, model="n"), long, bulk, rate]
    found = saturations(run_of([measurement(each, side=side) for side in ("a", "b") for each in points]))
    keys = {(each.side, each.model, each.kind, each.output_tokens) for each in found}
    assert len(found) == len(keys) == 8


def test_limits_in_words() -> None:
    assert (
        limits_in_words(Limits(ttft_ms=300, itl_ms=50, e2e_ms=2500))
        == "300 ms TTFT and 50 ms ITL p95 and 2500 ms end-to-end"
    )
    assert limits_in_words(Limits()) == ""
