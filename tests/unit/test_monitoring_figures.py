"""Two scrapes as figures of models and of the service, and how they look in 80 columns."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from app.monitoring.figures import Figures, figures
from app.monitoring.page import duration, number, page, seconds
from app.monitoring.places import Place
from app.monitoring.scrape import Scrape
from app.monitoring.watch import KeyUsage, Look
from app.reach import reach

BEFORE = """
# TYPE corral_model_state gauge
corral_model_state{model="llama",state="ready"} 1
corral_model_state{model="llama",state="failed"} 0
corral_model_state{model="bad",state="ready"} 0
corral_model_state{model="bad",state="failed"} 1
# TYPE corral_model_replicas gauge
corral_model_replicas{model="llama"} 2
corral_model_replicas{model="bad"} 0
# TYPE corral_model_target_replicas gauge
corral_model_target_replicas{model="llama"} 3
corral_model_target_replicas{model="bad"} 1
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{corral_model="llama",replica="a"} 3
vllm:num_requests_running{corral_model="llama",replica="b"} 4
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{corral_model="llama",replica="a"} 1
# TYPE corral_replica_requests gauge
corral_replica_requests{model="llama",replica="a",state="inside"} 9
corral_replica_requests{model="llama",replica="a",state="waiting"} 20
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{corral_model="llama",replica="a"} 0.25
vllm:kv_cache_usage_perc{corral_model="llama",replica="b"} 0.75
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{corral_model="llama",replica="a"} 1000
vllm:generation_tokens_total{corral_model="llama",replica="b"} 500
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{corral_model="llama",replica="a",le="0.1"} 10
vllm:time_to_first_token_seconds_bucket{corral_model="llama",replica="a",le="1.0"} 10
vllm:time_to_first_token_seconds_bucket{corral_model="llama",replica="a",le="+Inf"} 10
# TYPE corral_edge_requests_total counter
corral_edge_requests_total{model="llama",status="200"} 10
corral_edge_requests_total{model="-",status="401"} 1
corral_edge_requests_total{model="(probe)",status="503"} 50
# TYPE corral_quota_refusals_total counter
corral_quota_refusals_total{reason="quota_tokens"} 2
# TYPE corral_job_nodes gauge
corral_job_nodes{state="joined"} 2
corral_job_nodes{state="lost"} 1
# TYPE corral_job_ends_timestamp_seconds gauge
corral_job_ends_timestamp_seconds 5000
"""
CHANGES = {
    'generation_tokens_total{corral_model="llama",replica="a"} 1000': "1100",
    'generation_tokens_total{corral_model="llama",replica="b"} 500': "60",  # a replica that began anew
    'replica="a",le="1.0"} 10': "30",
    'replica="a",le="+Inf"} 10': "30",
    'status="200"} 10': "30",
    'status="401"} 1': "4",
    'status="503"} 50': "90",
    'reason="quota_tokens"} 2': "7",
}


def later(text: str) -> str:
    for line, value in CHANGES.items():
        assert text.count(line) == 1
        text = text.replace(line, f"{line.rsplit(' ', 1)[0]} {value}")
    return text


def between() -> Figures:
    """Those of four seconds."""
    return figures(Scrape.of(BEFORE, 10), Scrape.of(later(BEFORE), 14))


def test_what_needs_no_earlier_scrape_is_told_at_once() -> None:
    told = figures(None, Scrape.of(BEFORE, 10))
    llama, bad = told.models
    assert (llama.model, llama.state, llama.replicas, llama.target_replicas) == ("llama", "ready", 2, 3)
    assert (llama.running, llama.waiting, llama.kv_cache) == (7, 21, 0.75)
    assert (bad.state, bad.running, bad.kv_cache) == ("failed", 0, None)
    assert (llama.completion_tokens_per_s, llama.ttft_p50_s, told.requests_per_s) == (None, None, None)
    assert (told.nodes, told.ends) == ({"joined": 2, "lost": 1}, 5000)


def test_rates_and_quantiles_are_those_of_the_interval() -> None:
    told = between()
    llama = told.models[0]
    assert told.interval_s == 4
    assert llama.completion_tokens_per_s == (100 + 60) / 4
    assert llama.ttft_p50_s == pytest.approx(0.55)
    assert llama.itl_p95_s is None
    assert told.requests_per_s == 23 / 4
    assert told.failed_per_s == 0
    assert told.refusals == {"no_valid_key": 3, "quota_tokens": 5}


def look() -> Look:
    keys = tuple(KeyUsage(f"abcdefg{number}", f"ana {number}", 3, 1, 1_000_000, 50) for number in range(7))
    return Look(1400.0, "default", Place(reach("x", "http://10.0.0.7:31044", 1), "serving"), between(), keys)


def rendered(shown: Look, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as captured:
        console.print(page(shown))
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_page_fits_and_has_every_figure(width: int) -> None:
    lines = rendered(look(), width)
    assert max(map(len, lines)) <= width
    heading, titles, llama, bad, counts, *keys = lines
    assert "http://10.0.0.7:31044" in heading
    assert "serving  nodes: 2 joined, 1 lost  1:00:00 left" in heading
    assert titles.split()[:3] == ["model", "state", "repl"]
    assert llama.split() == [
        "llama", "ready", "2/3", "7", "21", "0", "40", "550ms", "955ms", "-", "75%", "0", "0",
    ]  # fmt: skip
    assert bad.split()[:3] == ["bad", "failed", "0/1"]
    assert "no_valid_key 3, quota_tokens 5" in counts
    assert keys[1].split() == ["abcdefg0", "ana", "0", "3", "1", "1000k", "50"]
    assert "and 2 more" in keys[-1]


def test_a_service_that_is_away_keeps_its_last_figures_and_says_since_when() -> None:
    lines = rendered(replace(look(), trouble="it does not answer", since=1310.0), 80)
    assert lines[1] == "it does not answer (for 90 s)"
    assert any(line.startswith("llama") for line in lines)


def test_markup_in_a_name_is_shown_as_it_is() -> None:
    shown = look()
    key = replace(shown.keys[0], name="[red]x[/red]")
    assert any("[red]x[/red]" in line for line in rendered(replace(shown, keys=(key,)), 100))


def test_json_has_the_same_without_what_is_old() -> None:
    told = json.loads(json.dumps(look().to_json()))
    assert (told["url"], told["phase"], told["trouble"]) == ("http://10.0.0.7:31044", "serving", None)
    assert told["models"][0]["completion_tokens_per_s"] == 40
    assert told["keys"][0]["prompt_tokens"] == 1_000_000
    away = replace(look(), trouble="it does not answer").to_json()
    assert (away["trouble"], away["models"], away["interval_s"]) == ("it does not answer", [], None)


NUMBERS = {
    None: "-", 0: "0", 0.25: "0.2", 7: "7", 12.34: "12.3", 99.96: "100", 9_999: "9999", 10_000: "10.0k",
    1_234_567: "1235k", 45_000_000: "45.0M",
}  # fmt: skip
SECONDS = {
    None: "-", 0.0004: "0.4ms", 0.0123: "12ms", 0.0999: "100ms", 0.95: "950ms", 0.9996: "1.00s", 5.239: "5.24s",
    75.4: "75s",
}  # fmt: skip
DURATIONS = {-3: "0 s", 119: "119 s", 120: "0:02:00", 90_061: "25:01:01"}


@pytest.mark.parametrize(
    ("write", "value", "shown"),
    [
        (write, value, shown)
        for write, expected in ((number, NUMBERS), (seconds, SECONDS), (duration, DURATIONS))
        for value, shown in expected.items()
    ],
)
def test_a_figure_is_short(write: Callable[[Any], str], value: float | None, shown: str) -> None:
    assert write(value) == shown
