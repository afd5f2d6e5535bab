"""`corral keys` as typed: what it prints, what it never prints, and what it refuses."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from app.access.cli import duration_s, expires_at, keys
from app.access.key_records import KEY, KeysError
from app.access.key_store import KeyStore
from app.access.limits import Limits
from tests.unit.access_fakes import DAY_S, taken

NOW = datetime(2026, 9, 21, 12, 0, tzinfo=UTC).timestamp()
Typed = Callable[[str], str]
"""What follows `corral keys` -> standard output."""


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORRAL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CORRAL_PROFILE", "profile.yaml")
    (tmp_path / "profile.yaml").write_text("models: {m: {source: pocket:pocket-1b}}\n")

    def run(line: str) -> str:
        keys(shlex.split(line), standalone_mode=False)
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return run


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    """What the commands work on."""
    return KeyStore(tmp_path / "state" / "keys.json", lambda: NOW)


def told(typed: Typed, line: str) -> Any:
    return json.loads(typed(f"{line} --json"))


def test_a_new_key_is_shown_once_alone_on_the_last_line(typed: Typed, store: KeyStore) -> None:
    *above, how, text = typed("create 'alice, laptop' --group lab").splitlines()
    (record,) = store.load().keys
    assert taken(store.load(), text, record.created) == record
    assert record.name == "alice, laptop"
    assert above == [
        f"{record.id} (alice, laptop) of the group lab: models, tribunal, rag; limits none",
        "The group lab is new and has no limits; `corral keys group lab` sets some.",
    ]
    for said in ("shown only now", "export CORRAL_API_KEY=", "Authorization: Bearer"):
        assert said in how
    again = typed("create bob --group lab")
    assert "is new" not in again
    assert len(KEY.findall(again)) == 1


def test_what_is_typed_is_kept(typed: Typed, store: KeyStore) -> None:
    line = (
        "create alice --scopes models:small,rag:handbook,rag:handbook --requests-per-minute 60 --tokens-per-minute 1000"
        " --concurrent-requests 4 --bulk-items 0 --weight 2.5 --expires 9999w"
    )
    with pytest.raises(typer.BadParameter, match="more than a hundred years off"):
        typed(line)
    assert not store.load().keys
    made = told(typed, line.replace("9999w", "12h"))
    (record,) = store.load().keys
    assert record.limits == Limits(requests_per_minute=60, tokens_per_minute=1000, concurrent_requests=4)
    assert (record.scopes, record.weight) == (("models:small", "rag:handbook"), 2.5)
    assert record.expires is not None
    assert abs(record.expires - record.created - 43_200) < 60
    assert taken(store.load(), made["key"], record.created) == record
    assert made == {
        "id": record.id, "name": "alice", "group": "", "scopes": ["models:small", "rag:handbook"],
        "limits": record.limits.model_dump(), "weight": 2.5, "created": record.created, "expires": record.expires,
        "revoked": None, "state": "valid", "previous_until": None, "group_created": False, "key": made["key"],
    }  # fmt: skip


def test_the_list_is_one_table(typed: Typed, store: KeyStore) -> None:
    assert typed("list") == "There are no keys yet; `corral keys create NAME` makes one.\n"
    assert told(typed, "list") == {"keys": [], "groups": []}
    limits = Limits(requests_per_minute=60, tokens_per_minute=9000, concurrent_requests=4, bulk_items=7)
    first, _ = store.create("alice, laptop", "lab", ("models:small", "rag"), limits, 2)
    second, _ = store.create("b", expires=NOW + 60)
    third, _ = store.create("c")
    store.revoke("c")
    lines = typed("list").splitlines()
    cells = [re.split(r"  +", line) for line in lines]
    assert cells == [
        ["id", "name", "group", "scopes", "limits", "created", "expires", "state"],
        [
            first.id, "alice, laptop", "lab", "models:small,rag",
            "60 requests/min, 9000 tokens/min, 4 at once, 7 bulk items, weight 2", "2026-09-21 12:00 UTC", "never",
            "valid",
        ],
        [second.id, "b", "-", "models,tribunal,rag", "none", "2026-09-21 12:00 UTC", "2026-09-21 12:01 UTC", "expired"],
        [third.id, "c", "-", "models,tribunal,rag", "none", "2026-09-21 12:00 UTC", "never", "revoked"],
    ]  # fmt: skip
    assert len({line.rfind("  ") for line in lines}) == 1
    listed = told(typed, "list")
    assert [(key["id"], key["state"]) for key in listed["keys"]] == [
        (first.id, "valid"), (second.id, "expired"), (third.id, "revoked"),
    ]  # fmt: skip
    assert listed["groups"] == [{"name": "lab", "limits": Limits().model_dump(), "weight": 1}]


@pytest.mark.parametrize("flag", ["", " --json"])
def test_no_secret_is_printed_after_it_was_made(typed: Typed, store: KeyStore, flag: str) -> None:
    made = [typed(f"create alice --group lab{flag}"), typed(f"rotate alice --grace 1h{flag}")]
    (record,) = store.load().keys
    assert record.previous is not None
    texts = [match[0] for each in made for match in KEY.finditer(each)]
    assert len(texts) == 2
    assert texts[0] not in made[1]
    later = "list; update alice --weight 2; group lab --bulk-items 3; revoke alice; list; remove alice; list"
    others = [typed(f"{line}{flag}") for line in later.split("; ")]
    kept = [record.salt, record.digest, record.previous.salt, record.previous.digest]
    for secret in [*kept, *(text.split("-")[2] for text in texts)]:
        assert not any(secret in each for each in others)
    for secret in kept:
        assert not any(secret in each for each in made)


def test_a_rotation_shows_the_new_text_and_when_the_old_one_ends(typed: Typed, store: KeyStore) -> None:
    old = typed("create alice").splitlines()[-1]
    *_, note, how, new = typed("rotate alice --grace 10m").splitlines()
    (record,) = store.load().keys
    assert record.previous is not None
    until = datetime.fromtimestamp(record.previous.until, UTC)
    assert note == f"The old text is taken until {until:%Y-%m-%d %H:%M} UTC."
    assert "shown only now" in how
    just_before = record.previous.until - 1
    assert taken(store.load(), old, just_before) == taken(store.load(), new, just_before) == record
    assert "The old text ends within 5 seconds." in typed("rotate alice").splitlines()
    assert taken(store.load(), old, just_before) is None
    assert told(typed, "rotate alice --grace 1h")["previous_until"] > record.created


def test_a_key_is_revoked_and_forgotten(typed: Typed, store: KeyStore) -> None:
    record, _ = store.create("alice")
    with pytest.raises(KeysError, match="is not revoked"):
        typed("remove alice")
    revoked = f"{record.id} (alice) is revoked; running services stop to take it within 5 seconds.\n"
    assert typed(f"revoke {record.id[:4]}") == revoked
    assert told(typed, "revoke alice")["state"] == "revoked"
    assert typed("remove alice") == f"{record.id} (alice) is forgotten.\n"
    again, _ = store.create("alice")
    store.revoke("alice")
    assert told(typed, "remove alice") == {"id": again.id, "name": "alice", "removed": True}
    assert store.load().keys == ()


def test_a_group_is_made_and_changed(typed: Typed, store: KeyStore) -> None:
    assert typed("group lab --requests-per-minute 60 --bulk-items 5 --weight 3") == (
        "lab: limits 60 requests/min, 5 bulk items, weight 3\n"
    )
    assert typed("group lab --bulk-items 0") == "lab: limits 60 requests/min, weight 3\n"
    changed = told(typed, "group lab --tokens-per-minute 9")
    assert changed == {
        "name": "lab", "limits": Limits(requests_per_minute=60, tokens_per_minute=9).model_dump(), "weight": 3,
    }  # fmt: skip
    assert typed("group lab") == "lab: limits 60 requests/min, 9 tokens/min, weight 3\n"
    assert "is new" not in typed("create alice --group lab")
    assert store.load().group("lab").weight == 3


def test_a_key_is_changed(typed: Typed, store: KeyStore) -> None:
    record, text = store.create("alice", limits=Limits(requests_per_minute=5, bulk_items=7), expires=NOW + 5)
    shown = typed("update alice --expires never --bulk-items 0 --scopes rag:handbook,models --weight 2")
    assert shown == f"{record.id} (alice): rag:handbook, models; limits 5 requests/min, weight 2\n"
    changed = taken(store.load(), text, NOW)
    assert changed is not None
    assert (changed.expires, changed.limits) == (None, Limits(requests_per_minute=5))
    assert told(typed, "update alice --expires 2096-01-31")["expires"] == datetime(2096, 2, 1, tzinfo=UTC).timestamp()
    assert typed("update alice --weight 1").endswith("; expires 2096-02-01 00:00 UTC\n")
    with pytest.raises(typer.BadParameter, match="say what to change: --scopes, --expires, --weight or a limit"):
        typed("update alice")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("create alice --expires soon", "'soon' is not a duration such as 12h or 90d .*, or a day such as 2027-01-31"),
        ("create alice --expires 2027-02-30", "'2027-02-30' is no day of the calendar; write one such as 2027-01-31"),
        ("create alice --expires 2001-01-31", "'2001-01-31' is over; give a day to come"),
        ("create alice --expires 0d", "'0d' is no time at all; give a duration such as"),
        ("update alice --expires 5y", "'5y' is not a duration such as .*or never"),
        ("rotate alice --grace never", "'never' is not a duration such as 90s, 10m, 12h, 7d or 2w"),
        ("rotate alice --grace 2027-01-31", "is not a duration such as"),
        ("create alice --scopes modles", r"unknown scope 'modles' \(did you mean 'models'\?\)"),
        ("update alice --scopes ''", "at least one scope"),
    ],
)
def test_wrong_usage_is_named_with_what_would_do(typed: Typed, store: KeyStore, line: str, why: str) -> None:
    with pytest.raises(typer.BadParameter, match=why):
        typed(line)
    assert not store.load().keys


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("rotate nobody", "there is no key 'nobody'; `corral keys list`"),
        ("revoke nobody", "there is no key"),
        ("remove nobody", "there is no key"),
        ("update nobody --weight 2", "there is no key"),
        ("create ' '", "name: ' ' is no name"),
        ("create alice --weight 0", "weight: input should be greater than 0"),
        ("create alice --group 'a b'", "group: 'a b' is no name of a group"),
        ("group ''", "a group needs a name"),
    ],
)
def test_what_the_store_refuses_is_an_error_of_the_keys(typed: Typed, store: KeyStore, line: str, why: str) -> None:
    with pytest.raises(KeysError, match=why):
        typed(line)
    assert store.version() is None


def test_a_profile_says_where_the_keys_lie(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(
        f"models: {{m: {{source: pocket:pocket-1b}}}}\naccess: {{file: {tmp_path}/mine/k.json}}\n"
    )
    typed("create alice -p other.yaml")
    assert [key.name for key in KeyStore(tmp_path / "mine" / "k.json").load().keys] == ["alice"]
    assert told(typed, "list")["keys"] == []
    assert [key["name"] for key in told(typed, "list --profile other.yaml")["keys"]] == ["alice"]


def test_help_says_what_every_scope_allows(typed: Typed) -> None:
    shown = typed("--help")
    for said in ("admin: everything, everybody's usage included", "metrics: read /metrics"):
        assert said in shown


@pytest.mark.parametrize(
    ("text", "length_s"),
    [("90s", 90), ("10m", 600), ("12h", 43_200), ("7d", 7 * DAY_S), ("2w", 14 * DAY_S), (" 1s ", 1), ("007m", 420)],
)
def test_durations(text: str, length_s: float) -> None:
    assert duration_s(text) == length_s
    assert expires_at(text, NOW) == NOW + length_s


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "1.5h", "1h30m", "5 m", "5M", "\u0665m", "1e3s", "9999999999s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 90s, 10m, 12h, 7d or 2w"):
        duration_s(text)


def test_a_day_is_valid_to_its_end() -> None:
    assert expires_at("2027-01-31", NOW) == datetime(2027, 2, 1, tzinfo=UTC).timestamp()
    assert expires_at("2026-09-21", NOW) == datetime(2026, 9, 22, tzinfo=UTC).timestamp()
    assert expires_at("never", NOW) is None
    for over in ("2026-09-20", "0001-01-01"):
        with pytest.raises(ValueError, match="is over"):
            expires_at(over, NOW)
    for far in ("9999-12-31", "999999999w"):
        with pytest.raises(ValueError, match="more than a hundred years off"):
            expires_at(far, NOW)


@given(st.one_of(st.text(), st.from_regex(r"\d{1,12}[smhdw]"), st.from_regex(r"\d{4}-\d{2}-\d{2}", fullmatch=True)))
def test_any_text_is_a_time_to_come_or_wrong(text: str) -> None:
    try:
        until = expires_at(text, NOW)
    except ValueError:
        assert text.strip() != "never"
    else:
        assert until is None or NOW < until < NOW + 37_000 * DAY_S
