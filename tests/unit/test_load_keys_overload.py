"""The arithmetic of an overload: schedules, goodput, both sides' accounts, who had the processors."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isnan

import numpy as np
import psutil
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from loadtests.keys import figures
from loadtests.keys.client import Answer, Asking, Request
from loadtests.keys.counters import between, counts_of, settled
from loadtests.keys.crew import Crew, shares
from loadtests.keys.open_loop import Part, Schedule, Sent, poisson, send
from loadtests.keys.overload import Overloaded, Peak, Service, costs_ms, judged, peak
from loadtests.keys.processors import by_process, computed_by, shown, spent_s
from tests.unit.load_bench import on_a_thread
from tests.unit.load_client_fakes import MODEL, Endpoint
from tests.unit.load_keys import answered
from tests.waiting import until

CUT = Answer(0.0, 0.0, 0.0, 9.0, 0, code="CancelledError", key="a")
BROKEN = Answer(0.0, 0.0, 1.0, 2.0, 200, key="b")
METRICS = """# TYPE corral_edge_requests_total counter
corral_edge_requests_total{model="pocket-8b",status="200"} 12.0
corral_edge_requests_total{model="pocket-8b",status="429"} 1e+03
corral_edge_requests_total{model="-",status="200"} 5.0
corral_edge_requests_created{model="pocket-8b",status="200"} 1.7e+09
corral_quota_refusals_total{reason="quota_rate"} 3.0
"""


@given(st.floats(1, 200), st.floats(1, 20), st.integers(1, 5), st.integers(1, 4))
def test_the_processes_parts_are_the_whole_schedule(per_s: float, seconds: float, keys: int, processes: int) -> None:
    whole = poisson(per_s, seconds, keys, seed=3)
    parts = [whole.part(number, processes) for number in range(processes)]
    sent = sorted(pair for part in parts for pair in zip(part.dues_s, part.keys, strict=True))
    assert sent == sorted(zip(whole.dues_s, whole.keys, strict=True))
    assert all(0 <= due_s < seconds for due_s in whole.dues_s)
    assert set(whole.keys) <= set(range(keys))
    assert max(map(len, (part.dues_s for part in parts))) - min(map(len, (part.dues_s for part in parts))) <= 1


def test_arrivals_are_at_random_and_of_every_key_alike() -> None:
    whole = poisson(100.0, 100.0, 4, seed=1)
    between_s = np.diff(whole.dues_s)
    assert len(whole.dues_s) == pytest.approx(10_000, rel=0.05)
    assert between_s.std() == pytest.approx(between_s.mean(), rel=0.05)  # as exponential ones have it
    assert all(count == pytest.approx(2500, rel=0.1) for count in Counter(whole.keys).values())
    assert whole == poisson(100.0, 100.0, 4, seed=1)


@given(st.integers(0, 1000), st.integers(1, 40))
def test_shares_are_as_equal_as_whole_numbers_are(total: int, parts: int) -> None:
    found = shares(total, parts)
    assert (sum(found), len(found)) == (total, parts)
    assert max(found) - min(found) <= 1


def test_goodput_is_of_whole_answers_that_ended_in_the_window() -> None:
    window = figures.Window(10.0, 20.0)
    answers = [
        answered(5, 9.9),
        answered(5, 10.0),
        answered(11, 19.9),
        answered(11, 20.0),
        answered(11, 12, 429),
        BROKEN,
    ]
    assert window.goodput_per_s(answers) == 0.2
    assert window.sent_per_s(answers) == 0.3


def test_every_request_is_answered_refused_or_lost() -> None:
    answers = [answered(0, 1), answered(0, 1, 429), answered(0, 1, 503), BROKEN, CUT]
    accounts = figures.accounts_of(answers, {200: 2, 429: 1, 503: 1})
    assert (accounts.sent, accounts.answered, accounts.refused, accounts.lost) == (5, 1, 1, 3)
    assert accounts.statuses == {0: 1, 200: 2, 429: 1, 503: 1}
    assert accounts.disagreement == 0
    assert figures.codes_of(answers) == {"queue_full": 2, "broken off": 1, "CancelledError": 1}


@pytest.mark.parametrize(
    ("edge", "disagreement"), [({200: 1, 429: 1}, 0), ({200: 2}, 2), ({}, 2), ({200: 1, 429: 1, 499: 4}, 4)]
)
def test_what_the_edge_counts_otherwise(edge: Mapping[int, int], disagreement: int) -> None:
    assert figures.accounts_of([answered(0, 1), answered(0, 1, 429)], edge).disagreement == disagreement


def test_times_are_of_those_that_they_are_of() -> None:
    answers = [answered(0, 1), answered(0, 3, late_s=0.5), answered(0, 0.25, 429), BROKEN, CUT]
    assert figures.refusals_ms(answers) == [250]
    assert figures.served_ms(answers) == [1000, 3000]
    assert figures.first_texts_ms(answers) == [500, 1500]
    assert answers[1].late_ms == 500
    found = figures.times_of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.p50, found.most, str(found).split(",")[0]) == (3.0, 100.0, "p50 3.0")
    assert isnan(figures.times_of([]).p99)


def test_each_keys_share_of_the_answers() -> None:
    answers = [answered(0, 1, key="a"), answered(0, 1, key="b"), answered(0, 1, key="b"), answered(0, 1, 429, key="c")]
    assert figures.shares_of(answers, ["a", "b", "c"]) == [pytest.approx(1 / 3), pytest.approx(2 / 3), 0]
    assert figures.shares_of([], ["a"]) == [0]


def test_an_overload_is_judged_by_both_peaks_and_both_sides() -> None:
    window, spent = figures.Window(0.0, 10.0), {"engine": 0.3, "edge": 0.08}
    answers = [answered(1, 2) for _ in range(19)] + [answered(1, 1.05, 429) for _ in range(21)]
    accounts = figures.accounts_of(answers, {200: 19, 429: 21})
    first, last = Peak(2.0, {"engine": 12, "edge": 3}, 0.1), Peak(2.2, {"engine": 17}, 0.125)
    good = Overloaded((first, last), window, Sent(tuple(answers), 1.0), accounts, ("a",), spent)
    assert good.peak_per_s == pytest.approx(2.1)
    assert good.goodput == pytest.approx(1.9 / 2.1)
    assert good.offered == pytest.approx(2.0)
    assert good.cost_ms == pytest.approx(20)
    assert good.goodput_for_equal_time == pytest.approx(0.8)
    assert [each.kept for each in judged([good])] == [True] * 5
    one, lost = Peak(4.0, {"engine": 15}, 0.1), (*answers, CUT, answered(1, 1.2, 429))
    bad = Overloaded((one, one), window, Sent(lost, 1.0), figures.accounts_of([CUT], {429: 1}), (), {})
    assert [each.kept for each in judged([bad])] == [False] * 5
    assert "sent 40 = answered 19 + refused 21 + lost 0; the client saw {200: 19, 429: 21}" in "\n".join(good.lines())
    assert "the client took 10.0% of the processors before" in "\n".join(good.lines())
    assert "before, with the refusals, after, in ms: engine 12.0 15.8 17.0, edge 3.0 4.2 0.0" in good.lines()
    assert isnan(costs_ms(spent, 0)["engine"])
    slow = replace(good, peaks=(replace(first, per_s=3.0), replace(last, per_s=3.0)))
    assert judged([slow, good, good])[1:] == judged([good, good])[1:]  # one round of three that others slowed down
    assert [each.kept for each in judged([good, good, bad])] == [False, True, False, False, False]


def test_counts_are_the_edges_own_of_one_model() -> None:
    assert counts_of(METRICS, "pocket-8b") == {200: 12, 429: 1000}
    assert counts_of(METRICS, "pocket-1b") == {}
    assert between({200: 12}, {200: 12, 429: 7}) == {429: 7}


def test_counts_are_read_until_all_are_there_and_not_for_ever() -> None:
    readings: Iterator[dict[int, int]] = iter([{200: 5}, {200: 7, 429: 1}, {200: 8, 429: 2}])
    assert settled(lambda: next(readings), {200: 5}, expected=3) == {200: 2, 429: 1}
    assert next(readings) == {200: 8, 429: 2}
    assert settled(lambda: {200: 6}, {200: 5}, expected=3, within_s=0.0) == {200: 1}


def test_the_processor_time_of_a_service_is_that_of_its_processes() -> None:
    before = {1: ("engine", 10.0), 2: ("edge", 1.0)}
    after = {1: ("engine", 19.0), 2: ("edge", 1.5), 3: ("edge", 0.4), 4: ("idle", 0.1)}
    found = spent_s(before, after)
    assert list(found.items()) == [("engine", 9.0), ("edge", pytest.approx(0.9)), ("idle", 0.1)]
    assert by_process(found, {"edge": 1.0}) == "engine 9.0 0.0, edge 0.9 1.0"
    assert by_process({}) == ""


def names_below(pid: int) -> set[str]:
    return {name for name, _ in computed_by(pid).values()}


def test_a_service_is_a_process_and_all_below_it() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as started:
        try:
            names = until(lambda: len(found := names_below(started.pid)) == 2 and found)
            own = [*computed_by(os.getpid())]
        finally:
            for each in reversed(psutil.Process(started.pid).children()):
                each.kill()
    assert names == {"sh", "sleep"}
    assert own[0] == os.getpid()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/x/bin/python", "-B", "-m", "app.service", "a"], "app.service"),
        (["ray::ServeReplica:gateway", "", ""], "ray::ServeReplica:gateway"),
        (["/x/haproxy", "-f", "a.cfg"], "haproxy"), (["python", "-m"], "python"), ([], ""),
    ],
)  # fmt: skip
def test_a_process_is_called_by_what_tells_it_from_others(command: list[str], name: str) -> None:
    assert shown(command) == name


def test_processes_together_send_all_and_see_every_answer() -> None:
    endpoint = Endpoint()
    schedule = poisson(200.0, 0.5, 3, seed=2)
    with on_a_thread(endpoint) as url, Crew(2) as crew:
        request = Request(url, MODEL, 3, 2)
        began_s, sent = crew.open(Asking(request, ("x", "y", "z")), schedule)
        asked = len(endpoint.asked)
        closed = crew.closed(Asking(request, ("x", "y")), 3, 0.2)
    assert asked == len(sent.answers) == len(schedule.dues_s)
    assert all(each.good and each.sent_s >= each.due_s >= began_s for each in sent.answers)
    assert sorted(each.due_s - began_s for each in sent.answers) == pytest.approx(list(schedule.dues_s))
    assert Counter(each.key for each in sent.answers) == Counter("xyz"[number] for number in schedule.keys)
    assert sent.processor_s > 0
    assert len(closed.answers) >= 3
    assert {each.key for each in closed.answers} == {"x", "y"}


def test_what_has_no_end_is_cut_off_and_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtests.keys.open_loop.GRACE_S", 0.1)
    free = threading.Event()

    async def silence(_: web.Request) -> web.Response:
        while not free.is_set():
            await asyncio.sleep(0.01)
        return web.Response()

    with on_a_thread(Endpoint(handlers={"/v1/chat/completions": silence})) as url:
        schedule = Schedule((0.0, 0.01), (0, 0))
        sent = send(Part(Asking(Request(url, MODEL, 3, 2), ("x",)), schedule, time.perf_counter()))
        free.set()
    assert [(each.status, each.good, each.code) for each in sent.answers] == [(0, False, "CancelledError")] * 2
    assert figures.accounts_of(sent.answers, {}).lost == 2


def test_a_service_that_answers_nothing_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtests.keys.overload.WARM_S", 0.0)
    monkeypatch.setattr("loadtests.keys.overload.PEAK_S", 0.2)
    endpoint = Endpoint(models=("another",))
    with on_a_thread(endpoint) as url, Crew(1) as crew:
        asked = Service(Asking(Request(url, MODEL, 3, 2), ("x",)), dict, dict)
        with pytest.raises(RuntimeError, match=r"none of \d+ requests was answered: \{'unreadable': \d+\}"):
            peak(crew, asked, 2)
        another = Asking(Request(url, "another", 3, 2), ("x",))
        found = peak(crew, replace(asked, asking=another, computed=lambda: {1: ("a", 0.0)}), 2)
    assert found.per_s > 0
    assert found.cost_ms == 0
