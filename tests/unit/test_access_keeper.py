"""The keeper: who is admitted, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest

from app.access.estimate import ANSWER_TOKENS
from app.access.keeper import Answer
from app.access.limits import Limits
from deployments.principal import HEADER, Principal
from tests.unit.access_fakes import BEGIN, DAY_S, Desk, error, event, line


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


def test_tokens_are_reserved_for_every_answer(desk: Desk) -> None:
    key = desk.key(limits=Limits(tokens_per_minute=1000))
    answer = desk.ask(key, "r1", body_bytes=400, answer_tokens=50, answers=4)
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(1000 - 100 - 4 * 50)
    answer = desk.ask(key, "r2", body_bytes=4, answer_tokens=50, answers=20)
    assert (answer.status, error(answer)["code"]) == (400, "quota_tokens_too_many")
    assert "this request may take 1001" in error(answer)["message"]


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


def test_bulk_items_are_held_until_they_are_answered(desk: Desk) -> None:
    key = desk.key(limits=Limits(bulk_items=10))
    assert desk.keeper.admit_items("r1", key, 8, 0) == Answer()
    answer = desk.keeper.admit_items("r2", key, 3, 0)
    assert (answer.status, error(answer)["code"], answer.headers["retry-after"]) == (429, "quota_bulk_items", "5")
    desk.keeper.items_done("r1", key, 1)
    assert desk.keeper.admit_items("r2", key, 3, 0).status == 200
    desk.keeper.ended(line(key, "r1", path="/bulk", model="-"))
    assert desk.keeper.admit_items("r3", key, 7, 0).status == 200
    assert desk.keeper.admit_items("r4", key, 1, 0).status == 429


def test_a_bulk_call_reserves_what_its_items_may_take_and_gives_back_what_they_did_not(desk: Desk) -> None:
    """Its text is reserved when it comes, and is a part of what the gateway tells then."""
    key = desk.key(limits=Limits(tokens_per_minute=1000))

    def left(request: str, **more: Any) -> int:
        return int(desk.ask(key, request, **more).headers["x-ratelimit-remaining-tokens"])

    assert left("r1", path="/bulk", body_bytes=400) == 900
    assert desk.keeper.admit_items("r1", key, 8, 700) == Answer()
    assert left("r2", answer_tokens=1) == 299
    answer = desk.keeper.admit_items("r2", key, 2, 301)
    assert (answer.status, error(answer)["code"]) == (429, "quota_tokens")
    assert "no room now for the 301 that this call may take" in error(answer)["message"]
    assert answer.headers["retry-after"] == "61"
    desk.keeper.used("b1", [event(key, 30, 70), event(key, 30, 70)])
    desk.keeper.ended(line(key, "r1", path="/bulk", model="-"))
    assert desk.keeper.admit_items("r2", key, 2, 800) == Answer()


def test_a_bulk_call_that_could_never_fit_is_a_bad_request(desk: Desk) -> None:
    key = desk.key(limits=Limits(tokens_per_minute=1000))
    assert desk.ask(key, "r1", path="/bulk", body_bytes=2000).status == 200
    answer = desk.keeper.admit_items("r1", key, 10, 1001)
    assert (answer.status, error(answer)["code"]) == (400, "quota_tokens_too_many")
    assert "this call may take 1001: send fewer items at once, or set max_tokens lower" in error(answer)["message"]
    assert desk.keeper.admit_items("r1", key, 10, 1000) == Answer()


def test_more_items_than_ever_allowed_are_a_bad_request(desk: Desk) -> None:
    key = desk.key(limits=Limits(bulk_items=10))
    answer = desk.keeper.admit_items("r1", key, 11, 0)
    assert (answer.status, error(answer)["code"]) == (400, "quota_bulk_items_too_many")


def test_items_without_a_key_are_not_bounded(desk: Desk) -> None:
    assert desk.keeper.admit_items("r1", "", 1 << 20, 1 << 20) == Answer()
    desk.keeper.items_done("r1", "", 5)
    assert desk.rows() == [{"model": "/bulk", "bulk_items": 5}]
