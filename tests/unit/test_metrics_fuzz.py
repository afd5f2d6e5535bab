"""Prometheus's text: read or a ValueError, and what replicas tell comes through whatever their labels hold."""

from __future__ import annotations

import math
from contextlib import suppress

from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from app.metrics import merge_engine_metrics
from app.monitoring.figures import figures
from app.monitoring.scrape import Between, Scrape
from tests.unit.mutations import damaged

PIECES = st.sampled_from(
    ["corral_x", "vllm:x_bucket", "corral_model_replicas", "corral_model_state", "corral_job_nodes", "model", "state",
     "# HELP ", "# TYPE ", "counter", "histogram", "{", "}", "le", "=", '"', "\\", ",", " ", "\n", "\t", "#", "1", "x",
     "-1e308", "1e308", "NaN", "+Inf", "-Inf", "²", "\x85", "\u2028", "\0", "\r"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=20).map("".join) | st.text(max_size=40)
NAMES = ("corral_x", "vllm:x", "vllm:x_bucket")
LABELS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def exposition(where: str, count: float, observed: list[float], words: str = "Words.") -> str:
    registry = CollectorRegistry()
    Counter("corral_x", words, ("where",), registry=registry).labels(where).inc(count)
    seconds = Histogram("vllm:x", words, ("where",), buckets=(0.1, 1.0), registry=registry)
    for value in observed:
        seconds.labels(where).observe(value)
    return generate_latest(registry).decode()


WHOLE = exposition('a "b"\\\n} 1', 3, [0.05, 0.5, 5.0]).encode()
ANYTHING = TEXTS | damaged(WHOLE).map(lambda raw: raw.decode(errors="replace"))


@settings(deadline=None)
@given(before=ANYTHING, now=ANYTHING)
@example(before="", now='corral_job_nodes 1\ncorral_model_replicas{model="m"} NaN\ncorral_model_state{model="m"} 1')
@example(before="", now="corral_x " + "9" * 400)
@example(before="", now="corral_x " + "9" * 5000)
@example(before="", now='x{le="a"} 1\nx_bucket{le="a"} 1')
@example(before="", now="corral_x 1e308\ncorral_x{le='1'} 1e308".replace("'", '"'))
def test_any_text_is_a_scrape_or_a_value_error(before: str, now: str) -> None:
    with suppress(ValueError):
        between = Between(Scrape.of(before, 0), Scrape.of(now, 1))
        figures(between.before, between.now)
        for name in {*NAMES, *between.now.samples}:
            between.now.total(name)
            between.now.most(name)
            between.now.labels(name, "le")
            between.per_s(name)
            between.quantile(0.5, name.removesuffix("_bucket"))


@settings(deadline=None)
@given(model=ANYTHING, other=ANYTHING)
def test_any_texts_of_replicas_are_joined(model: str, other: str) -> None:
    joined = merge_engine_metrics({"a": {"1": model, "2": other}})
    told = [line for line in joined.split("\n") if line and not line.startswith("#")]
    assert all(line.partition("}")[0] != line for line in told), "a series tells which replica it is of"
    assert len(told) <= len((model + "\n" + other).split("\n"))


@settings(deadline=None)
@given(where=LABELS, count=st.floats(0, 1e9), observed=st.lists(st.floats(0, 10), max_size=4), words=LABELS)
@example(where="\x85\u2028\x1c", count=1, observed=[1], words="\x0c")
def test_what_a_replica_tells_comes_through(where: str, count: float, observed: list[float], words: str) -> None:
    text = exposition(where, count, observed, words)
    joined = Scrape.of(merge_engine_metrics({"a": {"1": text, "2": text}}), 1)
    for replica in ("1", "2"):
        assert joined.total("corral_x_total", where=where, model="a", replica=replica) == count
        assert joined.total("vllm:x_count", where=where, corral_model="a", replica=replica) == len(observed)
        assert joined.total("vllm:x_bucket", where=where, replica=replica, le="+Inf") == len(observed)
    summed = joined.total("vllm:x_sum", where=where)
    assert math.isclose(summed, 2 * math.fsum(observed), rel_tol=1e-9, abs_tol=1e-9)
