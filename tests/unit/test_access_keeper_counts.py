"""What the keeper counts, of requests that ended and of tokens that engines tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.access.estimate import ANSWER_TOKENS, Estimate
from app.access.keeper import BATCHES_KEPT
from app.access.limits import Limits
from tests.unit.access_fakes import DAY_S, Desk, event, line


def test_a_batch_that_comes_twice_counts_once(desk: Desk) -> None:
    key = desk.key()
    events = [event(key, 30, 70), event(key, 1, 2, "r2")]
    desk.keeper.used("b1", events)
    desk.keeper.used("b1", events)
    assert desk.rows() == [{"key": key, "model": "llama", "prompt_tokens": 31, "completion_tokens": 72}]
    assert desk.metric("corral_tokens_total", model="llama", kind="completion") == 72
    desk.keeper.used("b2", events)
    assert desk.rows()[0]["prompt_tokens"] == 62


def test_so_many_batches_are_remembered_and_no_more(desk: Desk) -> None:
    for number in range(BATCHES_KEPT + 1):
        desk.keeper.used(f"b{number}", [])
    for batch in ("b0", f"b{BATCHES_KEPT}"):
        desk.keeper.used(batch, [event("aaaaaaaa", 1, 0)])
    assert [row["prompt_tokens"] for row in desk.rows()] == [1]


def test_each_key_and_model_has_a_row(desk: Desk) -> None:
    alice, bob = sorted((desk.key(group="lab"), desk.key("bob")))
    for key, model, status in ((alice, "llama", 200), (alice, "llama", 429), (alice, "qwen", 503), (bob, "llama", 200)):
        desk.keeper.ended(line(key, status=status, model=model))
    desk.keeper.used("b1", [event(bob, 3, 4)])
    assert desk.rows() == [
        {"key": alice, "model": "llama", "requests": 2, "refused": 1},
        {"key": alice, "model": "qwen", "requests": 1, "failed": 1},
        {"key": bob, "model": "llama", "requests": 1, "prompt_tokens": 3, "completion_tokens": 4},
    ]
    desk.clock.now += DAY_S
    desk.keeper.ended(line(alice))
    assert [row["day"] for row in desk.rows("day")] == ["2026-09-21", "2026-09-22"]


def test_a_request_counts_for_the_group_of_its_key(desk: Desk) -> None:
    desk.keeper.ended(line(desk.key(group="lab")))
    desk.keeper.ended(line(desk.key("bob")))
    assert [(row.group, row.counts.requests) for row in desk.keeper.ledger.usage(by=("group",))] == [
        ("", 1),
        ("lab", 1),
    ]


@pytest.mark.parametrize(
    ("path", "counted"),
    [
        ("/bulk", "/bulk"),
        ("/generate", "/generate"),
        ("/generate?x=1", "/generate"),
        ("/v1/tribunal/quick/x", "/v1/tribunal"),
        ("/v1/rag/collections/handbook/documents", "/v1/rag"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/v1/chat/completions", "other"),
        ("/anything/at/all", "other"),
        ("/" + "x" * 4000, "other"),
    ],
)
def test_what_went_to_the_gateway_counts_by_its_path(desk: Desk, path: str, counted: str) -> None:
    desk.keeper.ended(line(desk.key(), path=path, model="-"))
    assert [row["model"] for row in desk.rows()] == [counted]


@pytest.mark.parametrize(
    ("status", "refused", "failed"),
    [(200, 0, 0), (302, 0, 0), (400, 1, 0), (499, 1, 0), (500, 0, 1), (504, 0, 1), (-1, 0, 1), (0, 0, 1)],
)
def test_what_became_of_a_request(desk: Desk, status: int, refused: int, failed: int) -> None:
    desk.keeper.ended(line(desk.key(), status=status))
    (row,) = desk.keeper.ledger.usage()
    assert (row.counts.requests, row.counts.refused, row.counts.failed) == (1, refused, failed)


def test_who_has_no_key_leaves_no_row_where_one_is_asked_for(desk: Desk) -> None:
    desk.keeper.ended(line(status=401))
    desk.keeper.ended(line(desk.key(), method="GET"))
    assert desk.rows() == []
    assert desk.metric("corral_edge_requests_total", model="llama", status="401") == 1


def test_the_end_of_a_request_is_timed_stage_by_stage(desk: Desk) -> None:
    desk.keeper.ended(line(first_byte_ms=-1))
    found = {
        stage: (desk.metric("corral_edge_seconds_count", **at), desk.metric("corral_edge_seconds_sum", **at))
        for stage in ("queue", "connect", "first_byte", "total")
        for at in [{"model": "llama", "stage": stage}]
    }
    assert found == {"queue": (1, 0.001), "connect": (1, 0.002), "first_byte": (None, None), "total": (1, 0.4)}


@pytest.mark.parametrize(
    "garbage",
    [
        b"", b"\xff\xfe", b"{", b"null", b"[1]", b"17", b'"text"', b"{}", b'{"status": 200}', b'{"status": "x"}',
        line(status=None), line(status="abc"), line()[:-20], b"<134>" + line(),
        b'{"uid": "r1", "method": "POST", "status": 200, "key": "-"}',
    ],
)  # fmt: skip
def test_garbage_in_the_log_is_ignored(desk: Desk, garbage: bytes) -> None:
    key = desk.key(limits=Limits(tokens_per_minute=1000))
    desk.ask(key, answer_tokens=900)
    desk.keeper.ended(garbage)
    assert desk.rows() == []
    assert desk.ask(key, "r2", answer_tokens=200).status == 429
    desk.keeper.ended(line(key))
    assert desk.ask(key, "r2", answer_tokens=200).status == 200


@pytest.mark.parametrize(
    ("model", "body_bytes", "answer", "answers", "tokens"),
    [
        (None, 0, None, 1, ANSWER_TOKENS),
        (None, 400, 7, 1, 107),
        ("llama", 400, 7, 1, 107),
        ("llama", 8000, 7, 1, 1000),
        ("qwen", 8000, 7, 1, 2007),
        (None, -5, 1, 1, 1),
        (None, 0, -3, 1, 1),
        (None, 400, 7, 3, 121),
        (None, 0, None, 2, 2 * ANSWER_TOKENS),
        ("llama", 400, 950, 3, 100 + 3 * 950),
        ("llama", 400, 5000, 2, 2000),
        ("llama", 8000, 10, 3, 2030),
        (None, 0, 7, 0, 7),
        (None, 0, 7, -4, 7),
    ],
)
def test_the_estimate(model: str | None, body_bytes: int, answer: int | None, answers: int, tokens: int) -> None:
    assert Estimate({"llama": 1000}).tokens(model, body_bytes, answer, answers) == tokens


def test_metrics_are_in_prometheus_s_format(desk: Desk) -> None:
    desk.keeper.ended(line())
    lines: Callable[[], list[str]] = desk.keeper.tally.exposition().splitlines
    assert 'corral_edge_requests_total{model="llama",status="200"} 1.0' in lines()
