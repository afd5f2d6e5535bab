"""The load test of keys: its profiles are valid, and what its client notes is what came."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from app.settings import load_settings
from app.state import DIRECTORY_VARIABLE, ServiceState, write_state
from loadtests.client.exchange import open_session
from loadtests.keys.admission import Contender, differences, in_turn
from loadtests.keys.aims import Judged, told
from loadtests.keys.client import Request, ask, code_of, loaded
from loadtests.keys.command import parsed
from loadtests.keys.fairness import first_tokens_ms
from loadtests.keys.service import OFF, REQUIRED, process_id, profile
from tests.unit.load_keys import DONE, EVENT, FULL, Told, service
from tests.waiting import eventually

NOBODY = Request("http://127.0.0.1:9", "pocket-1b", 3, 1)


@pytest.mark.parametrize("keys", [OFF, REQUIRED])
def test_its_profiles_are_of_one_model(tmp_path: Path, keys: str) -> None:
    settings = load_settings(str(profile(tmp_path, "pocket-8b", keys)), {})
    assert list(settings.models) == ["pocket-8b"]
    assert settings.access.keys == keys
    assert settings.access.file == tmp_path / "keys" / "keys.json"


@pytest.mark.parametrize(
    ("pieces", "complete"), [((EVENT, DONE), True), ((EVENT,), False), ((DONE,), False), ((EVENT + DONE,), True)]
)
async def test_an_answer_is_complete_with_its_last_word(pieces: tuple[bytes, ...], complete: bool) -> None:
    served = Told(pieces)
    async with open_session() as session, service(served) as request:
        answer = await ask(session, request, "corral-x")
    assert (answer.status, answer.complete, answer.good, answer.key) == (200, complete, complete, "corral-x")
    assert served.keys == ["Bearer corral-x"]
    assert (answer.first_s > 0) == (EVENT in b"".join(pieces))
    assert answer.whole_ms > 0
    assert not answer.late_ms


async def test_a_refusal_is_read_to_its_end_and_its_connection_used_again() -> None:
    served = Told(status_of=lambda number: 429)
    async with open_session() as session, service(served) as request:
        answers = [await ask(session, request, due_s=0.0) for _ in range(3)]
    assert len(served.peers) == 1
    assert {(each.status, each.code, each.good) for each in answers} == {(429, "queue_full", False)}
    assert all(each.late_ms > 0 for each in answers)


async def test_nobody_there_is_an_answer_of_nothing() -> None:
    async with open_session() as session:
        answer = await ask(session, NOBODY)
    assert (answer.status, answer.good, answer.code) == (0, False, "ClientConnectorError")


@pytest.mark.parametrize(
    ("body", "code"), [(FULL, "queue_full"), (b"<html>", "unreadable"), (b"[]", "unreadable"), (b"{}", "unreadable")]
)
def test_the_code_of_a_refusal(body: bytes, code: str) -> None:
    assert code_of(body) == code


async def test_users_ask_until_it_is_over() -> None:
    async with open_session() as session, service(Told()) as request:
        async with loaded(partial(ask, session, request), 3) as answers:
            await eventually(lambda: len(answers) >= 9)
        before = len(answers)
        await ask(session, request)
    assert len(answers) == before
    assert all(each.good for each in answers)


async def test_who_is_refused_makes_no_figure() -> None:
    async with open_session() as session, service(Told(status_of=lambda number: 429)) as request:
        with pytest.raises(RuntimeError, match="got 429: queue_full"):
            await first_tokens_ms(session, request, "corral-x", 1)
        with pytest.raises(RuntimeError, match="2 of 2 requests failed, the first with 429"):
            await Contender(request).turn(session, 2)


async def test_contenders_take_turns_and_the_first_round_warms_up() -> None:
    first, second = Told(), Told()
    async with service(first) as one, service(second) as other:
        sides = [Contender(one), Contender(other, "corral-x")]
        await in_turn(sides, 2, each=3)
    assert (len(first.keys), len(second.keys)) == (9, 9)
    assert [len(each.medians_ms) for each in sides] == [2, 2]
    assert set(second.keys) == {"Bearer corral-x"}


def test_what_keys_add_is_of_each_round() -> None:
    assert differences([10.0, 20.0], [11.5, 21.0]) == [1.5, 1.0]


@pytest.mark.parametrize(
    ("found", "at_most", "kept"),
    [(1.0, True, True), (1.1, True, False), (1.0, False, True), (0.9, False, False), (float("nan"), True, False)],
)
def test_an_aim_is_kept_up_to_its_bound(
    found: float, at_most: bool, kept: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = Judged("figure", found, 1.0, at_most)
    assert told([Judged("other", 0.0, 0.0), judged]) == kept
    assert capsys.readouterr().out.splitlines()[1].startswith("kept: figure" if kept else "MISSED: figure")


@pytest.mark.parametrize(
    "line",
    [
        "overload --seconds 4",
        "overload --seconds 4000",
        "overload --keys 0",
        "overload --model llama",
        "fairness --rounds x",
        "",
    ],
)
def test_what_is_typed_wrong(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(line.split())
    assert "error: " in capsys.readouterr().err


def test_an_overload_lasts_five_minutes_unless_said() -> None:
    assert parsed(["overload"]).seconds == 300
    assert parsed(["overload", "--seconds", "12.5"]).seconds == 12.5


def test_a_service_is_found_by_the_state_that_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    write_state(ServiceState("bench-7-ab12", 4711, "", "pocket", str(tmp_path), "http://127.0.0.1:1"))
    (tmp_path / "bench-7-ab12-usage.db").touch()
    assert process_id(tmp_path) == 4711
