from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from loadtests.client.clock import Clock
from loadtests.records import Fault, Figures, Kind, Sample
from loadtests.swarm.course import BUSY, Course
from loadtests.swarm.errors import OptionError
from loadtests.swarm.load import Load, Seat, Waiting, place_of
from loadtests.swarm.report import Told, document, write
from loadtests.swarm.results import ALL, Outcome, outcome_of, spread_of_buckets
from loadtests.swarm.settings import Found
from loadtests.swarm.tally import Row, three_digits
from loadtests.swarm.traffic import Traffic
from tests.unit.load_client_fakes import MODEL, Endpoint, delta, serving
from tests.unit.load_swarm_fakes import FakeRows, sample, tally, whole
from tests.unit.test_load_swarm_options import settings


@given(st.floats(0.001, 1e6))
def test_a_bucket_has_three_digits(milliseconds: float) -> None:
    bucket = three_digits(milliseconds)
    assert abs(bucket - milliseconds) <= max(0.005, 0.0051 * milliseconds) + 1e-9
    assert three_digits(bucket) == bucket


def test_buckets_are_few() -> None:
    assert len({three_digits(0.1 * each) for each in range(1, 100_000)}) < 3_000


@given(st.lists(st.sampled_from([0.5, 3.21, 17.0, 17.1, 250.0, 3120.0]), min_size=1, max_size=60))
def test_percentiles_are_those_of_the_values_themselves(values: list[float]) -> None:
    spread = spread_of_buckets(Counter(values), sum(values))
    assert spread is not None
    assert spread.curve == pytest.approx(np.percentile(values, np.arange(101)), abs=0.001)
    assert spread.count == len(values)
    assert spread.mean == pytest.approx(float(np.mean(values)), abs=0.001)


def test_no_values_have_no_distribution() -> None:
    assert spread_of_buckets({}, 0.0) is None


def counted(*samples: Sample, kind: Kind = Kind.CHAT, limits: Mapping[str, float] | None = None) -> FakeRows:
    rows = FakeRows()
    for each in samples:
        tally(rows, **(limits or {})).record(kind, each)
    return rows


def outcome(rows: FakeRows, seconds: float = 10.0) -> Outcome:
    return outcome_of(rows, rows.errors, seconds)


def test_a_load_comes_to_figures_of_each_kind_and_of_all() -> None:
    rows = counted(sample(10, 20, tokens=3), sample(30, tokens=2, ttft_ms=50))
    tally(rows).record(Kind.SINGLE, whole(0.5))
    figures = outcome(rows).figures
    chat, everything = figures["chat"], figures[ALL]
    assert (chat.requests, chat.failed, chat.requests_per_s, chat.output_tokens_per_s) == (2, 0, 0.2, 0.5)
    assert chat.itl is not None
    assert (chat.itl.count, chat.itl.p50, round(chat.itl.mean)) == (3, 20, 20)
    assert chat.ttft is not None
    assert (chat.ttft.p50, chat.ttft.count) == (40.0, 2)
    assert chat.e2e is not None
    assert chat.e2e.p50 == pytest.approx(70, abs=0.2)
    assert (figures["single"].ttft, figures["single"].itl) == (None, None)
    assert (everything.requests, everything.output_tokens_per_s, everything.goodput_per_s) == (3, 1.3, 0.3)


def test_failures_are_counted_by_kind_and_are_no_latencies() -> None:
    late = sample(9_000, fault=Fault.BROKEN_STREAM)
    rows = counted(sample(10, tokens=2), late, late, sample(fault=Fault.TIMEOUT))
    chat = outcome(rows).figures["chat"]
    assert (chat.requests, chat.failed, chat.requests_per_s) == (4, 3, 0.1)
    assert chat.faults == {"timeout": 1, "broken_stream": 2}
    assert [spread.count for spread in (chat.ttft, chat.itl, chat.e2e) if spread] == [1, 1, 1]
    assert [event["response_time"] for event in rows.fired[1:]] == [None, None, None]
    assert repr(rows.fired[1]["exception"]) == "broken_stream"


def test_a_count_that_was_not_told_leaves_no_tokens_per_second() -> None:
    found = outcome(counted(sample(10, tokens=2), sample(10), sample(10)))
    assert found.figures["chat"].output_tokens_per_s is None
    assert found.figures[ALL].output_tokens_per_s is None
    assert found.notices == ("chat: 2 of 3 answers told no token count: no tokens per second",)


@pytest.mark.parametrize(
    ("limits", "good"),
    [({}, 3), ({"itl_ms": 25.0}, 2), ({"ttft_ms": 40.0}, 2), ({"e2e_ms": 60.0}, 1), ({"ttft_ms": 1.0}, 0)],
)
def test_goodput_is_of_those_who_kept_every_limit(limits: dict[str, float], good: int) -> None:
    rows = counted(sample(10, 10), sample(30), sample(20, ttft_ms=50), sample(1, fault=Fault.SERVER), limits=limits)
    chat = outcome(rows).figures["chat"]
    assert (chat.goodput_per_s, chat.good_share) == (good / 10, good / 4)


def test_tokens_are_requests_per_second_of_their_row() -> None:
    rows = counted(sample(10, 10, tokens=300))
    tokens = rows.of(Kind.CHAT, Row.TOKENS)
    assert (tokens.num_requests, tokens.num_none_requests, tokens.num_reqs_per_sec[7]) == (300, 300, 300)
    assert rows.fired[0]["response_length"] == 300


def test_what_was_cut_or_declined_is_told_and_not_counted() -> None:
    rows = counted(whole(1), kind=Kind.RAG)
    tally(rows).cut(Kind.RAG, 9.9)
    tally(rows).declined(Kind.RAG)
    found = outcome(rows)
    assert found.figures["rag"].requests == 1
    assert [notice.split(";")[0] for notice in found.notices] == [
        "rag: 1 requests were cut off as their users were stopped",
        "rag: 1 of 1 answers were refusals: the documents tell nothing about such questions, and no model was asked",
    ]


def test_what_hung_before_it_was_cut_is_told() -> None:
    rows = counted(sample(10, tokens=2))
    for silent_s in (0.5, 10.0, 300.0):
        tally(rows).cut(Kind.CHAT, silent_s)
    found = outcome(rows)
    assert (found.figures["chat"].requests, found.figures["chat"].failed) == (1, 0)
    assert found.notices == (
        "chat: 3 requests were cut off as their users were stopped; they do not count",
        "chat: of 2 of the 3 that were cut off nothing had come for 10 s and more: the endpoint may hang",
    )


def test_a_load_without_a_request_says_so() -> None:
    assert outcome(FakeRows()) == Outcome({}, ("no request ended: there is nothing to compute from",))


# How a load ends


def test_requests_under_way_are_waited_for_and_then_cut() -> None:
    cut: list[tuple[Kind, float]] = []
    traffic, now = Traffic(lambda *told: cut.append(told)), [0.0]
    slow, fast = traffic.request(Kind.BULK, lambda: now[0]), traffic.request(Kind.CHAT, lambda: 0.0)
    slow.__enter__()
    fast.__enter__()

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] == pytest.approx(1):
            fast.__exit__(None, None, None)

    traffic.end(5, lambda: now[0], sleep)
    assert now[0] == pytest.approx(5, abs=0.1)
    assert cut == [(Kind.BULK, now[0])]
    assert not traffic.open
    slow.__exit__(None, None, None)
    traffic.end(5, lambda: now[0], sleep)
    assert now[0] == pytest.approx(5, abs=0.1)


def test_a_user_that_is_stopped_in_the_middle_is_cut_once() -> None:
    cut: list[Kind] = []
    traffic = Traffic(lambda kind, _: cut.append(kind))
    with contextlib.suppress(KeyboardInterrupt), traffic.request(Kind.CHAT, float):
        raise KeyboardInterrupt
    with contextlib.suppress(KeyboardInterrupt), traffic.request(Kind.CHAT, float):
        traffic.end(0, lambda: 0.0, lambda _seconds: None)
        raise KeyboardInterrupt
    assert cut == [Kind.CHAT, Kind.CHAT]


class Total:
    start_time = 0.0
    last_request_timestamp: float | None = None


def test_a_course_lasts_until_its_last_answer() -> None:
    wall, monotonic, total = [1000.0], [50.0], Total()
    course = Course(Clock(lambda: monotonic[0], lambda: wall[0]))
    wall[0], monotonic[0] = 1030.0, 80.0
    assert course.seconds(total) == 30
    total.last_request_timestamp = 1020.0
    assert course.seconds(total) == 20
    total.start_time = 1015.0  # statistics were reset
    assert course.seconds(total) == 5
    course.busy = True
    assert course.told() == (BUSY,)


def test_a_clock_that_jumps_is_not_believed() -> None:
    wall, monotonic, total = [1000.0], [50.0], Total()
    course = Course(Clock(lambda: monotonic[0], lambda: wall[0]))
    wall[0], monotonic[0], total.last_request_timestamp = 400.0, 80.0, 395.0
    assert course.seconds(total) == 30
    assert "jumped by -630.0 s" in course.told()[0]


# A process's load


def load(url: str, rows: FakeRows, slept: list[float], worker: int = 0, **options: Any) -> Load:
    waiting = Waiting(lambda _seconds: contextlib.nullcontext(), slept.append)
    read = settings(**{"output_tokens": 4} | options)
    return Load(read, Found(model=MODEL), place_of(url, None), worker, tally(rows), waiting)


async def test_users_ask_until_the_load_is_over() -> None:
    rows, slept, endpoint = FakeRows(), list[float](), Endpoint()
    async with serving(endpoint) as url:
        one = load(url, rows, slept, worker=3, think="2")
        seats = [one.seat(Kind.CHAT), one.seat(Kind.CHAT)]
        assert await _asked(*seats, *seats)
        one.traffic.end(0, lambda: 0.0, slept.append)
        assert not seats[0].ask()
        for seat in seats:
            seat.leave()
    asked = [body["messages"][0]["content"] for body in endpoint.asked]
    assert len(set(asked)) == len(asked) == 4
    assert rows.of(Kind.CHAT, Row.TOKENS).num_requests == 16
    assert (seats[0].think_s(), slept) == (2.0, [])
    other = FakeRows()
    async with serving(endpoint) as url:
        seat = load(url, other, slept, worker=4).seat(Kind.CHAT)
        await _asked(seat)
        seat.leave()
    assert endpoint.asked[-1]["messages"][0]["content"] not in asked


async def _asked(*seats: Seat) -> bool:
    return all([await asyncio.to_thread(seat.ask) for seat in seats])


async def test_a_request_under_way_is_silent_since_its_last_text() -> None:
    """The endpoint sends one word, and then nothing until the load has ended."""
    over, wrote, cut = asyncio.Event(), asyncio.Event(), list[float]()

    async def one_word(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(0.4)
        await response.write(delta(content="word"))
        wrote.set()
        await over.wait()
        return response

    async with serving(Endpoint(handlers={"/v1/chat/completions": one_word})) as url:
        one = load(url, FakeRows(), [])
        one.traffic = Traffic(lambda _, silent_s: cut.append(silent_s))
        seat = one.seat(Kind.CHAT)
        began = time.perf_counter()
        asking = asyncio.create_task(asyncio.to_thread(seat.ask))
        await wrote.wait()
        await asyncio.sleep(1)  # the client has read it by then
        await asyncio.to_thread(one.traffic.end, 0, time.monotonic, time.sleep)
        waited = time.perf_counter() - began
        over.set()
        await asking
        seat.leave()
    assert 0 < cut[0] < waited - 0.3


async def test_a_dead_endpoint_is_not_asked_as_fast_as_it_refuses() -> None:
    async with serving(Endpoint()) as url:
        pass
    rows, slept = FakeRows(), list[float]()
    seat = load(url, rows, slept).seat(Kind.CHAT)
    assert await _asked(seat, seat)
    assert slept == [1.0, 1.0]
    assert outcome(rows).figures["chat"].faults == {"connection": 2}


def test_a_file_that_is_not_on_this_node_makes_no_seat() -> None:
    one = load("http://127.0.0.1:1", FakeRows(), [])
    one.settings = dataclasses.replace(one.settings, workload="/gone.json")
    with pytest.raises(OptionError, match=r"/gone\.json: No such file"):
        one.seat(Kind.CHAT)


def test_an_address_that_is_none_says_so() -> None:
    with pytest.raises(OptionError, match="host: 'ftp://x' is no address of an endpoint"):
        place_of("ftp://x", None)


# What is kept


def test_the_file_has_the_figures_and_how_they_came_about(tmp_path: Path) -> None:
    told = Told("http://x", {"mix": "chat"}, "then", "now", 8, 2, "best goodput 3/s", ("doubtful",))
    path = tmp_path / "figures.json"
    path.write_text("old")
    write(path, document(told, outcome(counted(sample(10), sample(20)))))
    kept = json.loads(path.read_text())
    assert Figures(**kept["kinds"]["chat"]).requests == 2
    assert (kept["users"], kept["workers"], kept["verdict"]) == (8, 2, "best goodput 3/s")
    assert kept["notices"][0] == "doubtful"
    assert kept["notices"][1].startswith("chat: 2 of 2 answers told no token count")
    assert [each.name for each in tmp_path.iterdir()] == ["figures.json"]
