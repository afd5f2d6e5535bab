"""The keeper: who is admitted, what it costs, and what is counted of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.access.estimate import ANSWER_TOKENS, Estimate
from app.access.keeper import BATCHES_KEPT, Answer, Asked, Keeper, edge_keys
from app.access.keys import KeyFile, KeyRecord, KeyStore
from app.access.ledger import Ledger
from app.access.limits import Limits
from app.access.tally import Tally
from app.edge_config import EdgeKey
from deployments.principal import HEADER, Principal

BEGIN = 1_790_000_000.0
DAY_S = 86_400
DAMAGED = '{"version": 1, "groups": ['


@dataclass
class Clock:
    now: float = BEGIN

    def __call__(self) -> float:
        return self.now


@dataclass
class Desk:
    """A keeper over real files, with clocks that stand still."""

    path: Path
    store: KeyStore
    keeper: Keeper
    clock: Clock
    local: Clock

    def key(self, name: str = "alice", **more: Any) -> str:
        """The id of a new key, which the keeper knows."""
        record, _ = self.store.create(name, **more)
        self.keeper.reload()
        return record.id

    def record(self, key: str) -> KeyRecord:
        return self.store.load().by_id[key]

    def ask(self, key: str, request: str = "r1", path: str = "/v1/chat/completions", **more: Any) -> Answer:
        return self.keeper.admit(Asked(request, key, more.pop("method", "POST"), path, **more))

    def metric(self, name: str, **labels: str) -> float | None:
        return self.keeper.tally.registry.get_sample_value(name, labels)

    def rows(self, *by: str) -> list[dict[str, Any]]:
        """What was used, without its zeros."""
        rows = [row.to_json() for row in self.keeper.ledger.usage(by=by or ("key", "model"))]  # type: ignore[arg-type]
        return [{name: value for name, value in row.items() if value} for row in rows]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    clock, local = Clock(), Clock(1000.0)
    path = tmp_path / "keys.json"
    store, ledger = KeyStore(path, clock), Ledger.open(tmp_path / "usage.db", clock=clock)
    keeper = Keeper(store, ledger, Estimate({"llama": 1000}), Tally(), clock, local)
    keeper.reload()
    yield Desk(path, store, keeper, clock, local)
    ledger.close()


def error(answer: Answer) -> dict[str, Any]:
    """The error of an answer, in OpenAI's shape."""
    body = json.loads(answer.body)
    assert set(body) == {"error"}
    found: dict[str, Any] = body["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


def line(key: str = "-", request: str = "r1", status: object = 200, **more: Any) -> bytes:
    """What the edge logs of a request's end."""
    seen = {"uid": request, "method": "POST", "path": "/v1/chat/completions", "key": key, "model": "llama", **more}
    times = {"queue_ms": 1, "connect_ms": 2, "first_byte_ms": 30, "total_ms": 400}
    return json.dumps({**times, **seen, "status": status}).encode()


def event(key: str, prompt: int, completion: int, request: str = "r1", **more: Any) -> dict[str, Any]:
    named = {"request": request, "key": key, "group": "", "model": "llama", **more}
    return {**named, "prompt_tokens": prompt, "completion_tokens": completion}


# Who is admitted.


def test_a_key_is_admitted_with_its_principal_and_nothing_else(desk: Desk) -> None:
    desk.store.set_group("lab", weight=3)
    key = desk.key(group="lab", weight=2, scopes=("models:llama",))
    answer = desk.ask(key, model="llama")
    assert (answer.status, answer.body) == (200, b"")
    assert set(answer.headers) == {HEADER}
    assert Principal.from_header(answer.headers[HEADER]) == Principal(key, "lab", ("models:llama",), 2, 3, "r1")


def refused(answer: Answer) -> str:
    """Why a key is not taken."""
    told = error(answer)
    assert (answer.status, told["type"], told["code"]) == (401, "invalid_request_error", "invalid_api_key")
    assert answer.headers == {}
    return str(told["message"])


def test_a_key_that_nobody_knows_is_refused(desk: Desk) -> None:
    for unknown in ("aaaaaaaa", ""):
        assert refused(desk.ask(unknown)) == "This API key is not taken: it is not known here."


def test_a_revoked_key_is_refused_from_the_next_look_at_the_file_on(desk: Desk) -> None:
    key = desk.key()
    desk.store.revoke(key)
    assert desk.ask(key).status == 200
    desk.keeper.reload()
    assert "it was revoked on 2026-09-21" in refused(desk.ask(key))


def test_a_key_is_refused_from_the_moment_it_expires(desk: Desk) -> None:
    key = desk.key(expires=BEGIN + DAY_S)
    desk.clock.now = BEGIN + DAY_S - 0.001
    assert desk.ask(key).status == 200
    desk.clock.now = BEGIN + DAY_S
    assert "it expired on 2026-09-22" in refused(desk.ask(key))


def test_a_rotated_key_is_the_same_one(desk: Desk) -> None:
    key = desk.key(limits=Limits(requests_per_minute=1))
    assert desk.ask(key, "r1").status == 200
    desk.store.rotate(key)
    desk.keeper.reload()
    assert desk.ask(key, "r2").status == 429


def test_a_key_that_was_removed_is_not_known(desk: Desk) -> None:
    key = desk.key()
    desk.store.revoke(key)
    desk.store.remove(key)
    desk.keeper.reload()
    assert "it is not known here" in refused(desk.ask(key))


@pytest.mark.parametrize(
    ("scopes", "asked", "scope", "param"),
    [
        (("models:qwen",), {"model": "llama"}, "models:llama", "model"),
        (("models",), {"model": "tribunal"}, "tribunal:default", "model"),
        (("models",), {"model": "rag/handbook"}, "rag:handbook", "model"),
        (("models",), {"path": "/v1/tribunal"}, "tribunal", None),
        (("models",), {"path": "/v1/rag/search"}, "rag or documents", None),
        (("models", "rag"), {"path": "/metrics", "method": "GET"}, "metrics", None),
        (("models",), {"path": "/v1/load_lora_adapter"}, "admin", None),
    ],
)
def test_what_a_key_may_not_do_names_the_scope(
    desk: Desk, scopes: tuple[str, ...], asked: dict[str, Any], scope: str, param: str | None
) -> None:
    key = desk.key(scopes=scopes, limits=Limits(requests_per_minute=1))
    answer = desk.ask(key, **asked)
    message = f"This API key may not do this; it needs the scope {scope}."
    expected = {"message": message, "type": "invalid_request_error", "param": param, "code": "not_allowed"}
    assert (answer.status, error(answer)) == (403, expected)
    assert desk.metric("corral_quota_refusals_total", reason="not_allowed") == 1
    assert desk.ask(key, "r2").status == 200  # it cost nothing


# Quotas.


def test_requests_over_the_limit_are_told_when_to_come_again(desk: Desk) -> None:
    key = desk.key(limits=Limits(requests_per_minute=2))
    left = [desk.ask(key, request).headers["x-ratelimit-remaining-requests"] for request in ("r1", "r2")]
    assert left == ["1", "0"]
    desk.local.now += 10
    answer = desk.ask(key, "r3")
    assert (answer.status, error(answer)["type"], error(answer)["code"]) == (429, "rate_limit_error", "quota_requests")
    assert error(answer)["message"] == "This key may make 2 requests in any minute."
    assert dict(answer.headers) == {
        "retry-after": "51", "x-ratelimit-limit-requests": "2", "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "51",
    }  # fmt: skip
    assert desk.metric("corral_quota_refusals_total", reason="quota_requests") == 1
    desk.local.now += 51
    assert desk.ask(key, "r4").status == 200


def test_a_wait_is_never_told_as_none(desk: Desk) -> None:
    key = desk.key(limits=Limits(requests_per_minute=1))
    desk.ask(key, "r1")
    desk.local.now += 60
    assert desk.ask(key, "r2").headers["retry-after"] == "1"


def test_what_is_no_post_costs_nothing(desk: Desk) -> None:
    key = desk.key(limits=Limits(requests_per_minute=1))
    for number in range(3):
        answer = desk.ask(key, f"r{number}", "/v1/models", method="GET")
        assert (answer.status, answer.headers["x-ratelimit-remaining-requests"]) == (200, "1")
    assert desk.ask(key, "r9").status == 200


def test_tokens_are_reserved_by_the_body_and_the_answer(desk: Desk) -> None:
    key = desk.key(limits=Limits(tokens_per_minute=2000))

    def left(request: str, **more: Any) -> int:
        return int(desk.ask(key, request, **more).headers["x-ratelimit-remaining-tokens"])

    assert left("r1", body_bytes=400, answer_tokens=50) == 2000 - 150
    assert left("r2", body_bytes=400) == 1850 - 100 - ANSWER_TOKENS
    assert left("r3", model="llama", body_bytes=1 << 20, answer_tokens=1 << 20) == 238


def test_what_could_never_be_is_no_matter_of_waiting(desk: Desk) -> None:
    key = desk.key(limits=Limits(tokens_per_minute=100))
    answer = desk.ask(key, body_bytes=40, answer_tokens=91)
    told = error(answer)
    assert (answer.status, told["type"], told["code"]) == (400, "invalid_request_error", "quota_tokens_too_many")
    assert "this request may take 101" in told["message"]
    assert answer.headers == {}
    assert desk.ask(key, "r2", body_bytes=40, answer_tokens=90).status == 200


def test_a_group_s_limits_are_those_of_all_its_keys(desk: Desk) -> None:
    desk.store.set_group("lab", Limits(requests_per_minute=2))
    alice, bob, other = desk.key(group="lab"), desk.key("bob", group="lab"), desk.key("carol")
    assert (desk.ask(alice, "r1").status, desk.ask(bob, "r2").status) == (200, 200)
    answer = desk.ask(alice, "r3")
    assert (answer.status, error(answer)["message"]) == (429, "The group 'lab' may make 2 requests in any minute.")
    assert desk.ask(other, "r4").status == 200


def test_limits_that_change_count_at_once(desk: Desk) -> None:
    key = desk.key(limits=Limits(requests_per_minute=1))
    desk.ask(key, "r1")
    assert desk.ask(key, "r2").status == 429
    desk.store.update(key, limits=Limits(requests_per_minute=5))
    desk.keeper.reload()
    assert desk.ask(key, "r2").headers["x-ratelimit-remaining-requests"] == "3"


def test_two_keys_may_choose_the_same_id_for_a_request(desk: Desk) -> None:
    alice, bob = (desk.key(name, limits=Limits(tokens_per_minute=1000)) for name in ("alice", "bob"))
    for key in (alice, bob):
        assert desk.ask(key, "mine", answer_tokens=600).status == 200
    desk.keeper.ended(line(alice, "mine"))
    assert desk.ask(alice, "r2", answer_tokens=1000).status == 200
    assert desk.ask(bob, "r2", answer_tokens=1000).status == 429


def test_the_end_of_a_request_gives_back_what_it_did_not_use(desk: Desk) -> None:
    key = desk.key(limits=Limits(tokens_per_minute=1000))
    desk.ask(key, "r1", answer_tokens=900)
    assert desk.ask(key, "r2", answer_tokens=200).status == 429
    desk.keeper.used("b1", [event(key, 30, 70)])
    assert desk.ask(key, "r2", answer_tokens=200).status == 429
    desk.keeper.ended(line(key, "r1"))
    assert desk.ask(key, "r2", answer_tokens=900).status == 200
    assert desk.ask(key, "r3", answer_tokens=1).status == 429


def test_what_was_used_beyond_the_reserve_is_charged(desk: Desk) -> None:
    key = desk.key(limits=Limits(tokens_per_minute=1000))
    desk.ask(key, "r1", answer_tokens=100)
    desk.keeper.used("b1", [event(key, 500, 400)])
    assert desk.ask(key, "r2", answer_tokens=101).status == 429
    assert desk.ask(key, "r2", answer_tokens=100).status == 200


# Bulk items.


def test_bulk_items_are_held_until_they_are_answered(desk: Desk) -> None:
    key = desk.key(limits=Limits(bulk_items=10))
    assert desk.keeper.admit_items("r1", key, 8) == Answer()
    answer = desk.keeper.admit_items("r2", key, 3)
    assert (answer.status, error(answer)["code"], answer.headers["retry-after"]) == (429, "quota_bulk_items", "5")
    desk.keeper.items_done("r1", key, 1)
    assert desk.keeper.admit_items("r2", key, 3).status == 200
    desk.keeper.ended(line(key, "r1", path="/bulk", model="-"))
    assert desk.keeper.admit_items("r3", key, 7).status == 200
    assert desk.keeper.admit_items("r4", key, 1).status == 429


def test_more_items_than_ever_allowed_are_a_bad_request(desk: Desk) -> None:
    key = desk.key(limits=Limits(bulk_items=10))
    answer = desk.keeper.admit_items("r1", key, 11)
    assert (answer.status, error(answer)["code"]) == (400, "quota_bulk_items_too_many")


def test_items_without_a_key_are_not_bounded(desk: Desk) -> None:
    assert desk.keeper.admit_items("r1", "", 1 << 20) == Answer()
    desk.keeper.items_done("r1", "", 5)
    assert desk.rows() == [{"model": "/bulk", "bulk_items": 5}]


# The keys' file.


def test_a_damaged_file_leaves_what_was_known(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    key = desk.key()
    whole = desk.path.read_text()
    desk.path.write_text(DAMAGED)
    desk.keeper.reload()
    assert "damaged" in caplog.text
    assert desk.ask(key).status == 200
    desk.path.write_text(whole)
    desk.store.revoke(key)
    desk.keeper.reload()
    assert desk.ask(key, "r2").status == 401


def test_a_file_that_others_may_write_changes_nothing(desk: Desk) -> None:
    key = desk.key()
    desk.store.revoke(key)
    desk.path.chmod(0o666)
    desk.keeper.reload()
    assert desk.ask(key).status == 200


class CountingStore(KeyStore):
    """Counts how often the file is read."""

    loads = 0

    def load(self) -> KeyFile:
        self.loads += 1
        return super().load()


def test_a_file_is_read_only_when_it_changed(desk: Desk) -> None:
    key, store = desk.key(), CountingStore(desk.path)
    keeper = Keeper(store, desk.keeper.ledger, Estimate(), Tally())
    for _ in range(3):
        keeper.reload()
    assert (store.loads, keeper.names()) == (1, {key: "alice"})
    other, _ = desk.store.create("bob")
    keeper.reload()
    assert (store.loads, keeper.names()) == (2, {key: "alice", other.id: "bob"})


def test_a_file_that_is_gone_ends_every_key(desk: Desk) -> None:
    key = desk.key()
    desk.path.unlink()
    desk.keeper.reload()
    assert desk.ask(key).status == 401


def test_where_no_keys_are_asked_for_nothing_is_read(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "usage.db")
    keeper = Keeper(None, ledger, Estimate(), Tally())
    keeper.reload()
    assert (keeper.edge_keys(), keeper.names()) == ([], {})
    keeper.ended(line())
    assert [row.counts.requests for row in ledger.usage()] == [1]
    ledger.close()


# The edge's keys.


def test_the_edge_knows_the_keys_that_are_taken_now(desk: Desk) -> None:
    desk.store.set_group("lab", Limits(concurrent_requests=9))
    alice = desk.record(desk.key(group="lab", limits=Limits(concurrent_requests=3)))
    bob = desk.record(desk.key("bob", expires=BEGIN + DAY_S))
    desk.store.revoke(desk.key("carol"))
    desk.keeper.reload()
    first = EdgeKey(alice.id, alice.salt, alice.digest, 3, "lab", 9)
    second = EdgeKey(bob.id, bob.salt, bob.digest)
    assert desk.keeper.edge_keys() == [first, second]
    desk.clock.now += DAY_S
    assert desk.keeper.edge_keys() == [first]


def test_after_a_rotation_the_edge_knows_both_for_a_while(desk: Desk) -> None:
    before = desk.record(desk.key(limits=Limits(concurrent_requests=3)))
    desk.store.rotate(before.id, grace_s=600)
    after = desk.record(before.id)
    file = desk.store.load()
    new = EdgeKey(after.id, after.salt, after.digest, 3)
    old = EdgeKey(after.id, before.salt, before.digest, 3, old=True)
    assert edge_keys(file, BEGIN + 599.9) == [new, old]
    assert edge_keys(file, BEGIN + 600) == [new]
    desk.store.rotate(before.id)
    assert [key.old for key in edge_keys(desk.store.load(), BEGIN)] == [False]


# What is counted.


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
    ("model", "body_bytes", "answer", "tokens"),
    [
        (None, 0, None, ANSWER_TOKENS),
        (None, 400, 7, 107),
        ("llama", 400, 7, 107),
        ("llama", 8000, 7, 1000),
        ("qwen", 8000, 7, 2007),
        (None, -5, 1, 1),
        (None, 0, -3, 1),
    ],
)
def test_the_estimate(model: str | None, body_bytes: int, answer: int | None, tokens: int) -> None:
    assert Estimate({"llama": 1000}).tokens(model, body_bytes, answer) == tokens


def test_metrics_are_in_prometheus_s_format(desk: Desk) -> None:
    desk.keeper.ended(line())
    lines: Callable[[], list[str]] = desk.keeper.tally.exposition().splitlines
    assert 'corral_edge_requests_total{model="llama",status="200"} 1.0' in lines()
