"""Keys and groups in their file: made, changed, rotated, revoked, forgotten; and who gets in then."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from app.access.key_records import KEY, GroupRecord, KeysError
from app.access.key_store import KeyStore
from app.access.limits import Limits
from deployments.principal import Principal
from tests.unit.access_fakes import BEGIN, DAY_S, Clock, taken


def test_a_key_comes_back_as_it_was_made(store: KeyStore, keys_path: Path, clock: Clock) -> None:
    limits = Limits(requests_per_minute=60, bulk_items=5)
    record, text = store.create("alice, laptop", "lab", ("rag:handbook", "metrics"), limits, 2.5, BEGIN + DAY_S)
    assert KEY.fullmatch(text)
    assert text.split("-")[1] == record.id
    again = KeyStore(keys_path, clock).load()
    assert again.keys == (record,)
    assert again.groups == (GroupRecord(name="lab"),)
    assert taken(again, text, clock()) == record
    assert (record.name, record.limits, record.created, record.expires) == (
        "alice, laptop", limits, BEGIN, BEGIN + DAY_S,
    )  # fmt: skip


def test_a_key_without_more_is_for_asking_and_has_no_limits(store: KeyStore) -> None:
    record, _ = store.create("alice")
    assert record.scopes == ("models", "tribunal", "rag")
    assert (record.group, record.limits, record.weight, record.expires) == ("", Limits(), 1, None)


def test_a_key_is_a_principal(store: KeyStore) -> None:
    record, _ = store.create("alice", "lab", ("models:small",), weight=2)
    group = store.set_group("lab", weight=3)
    principal = record.principal(store.load().group("lab"))
    assert principal == Principal(record.id, "lab", ("models:small",), 2, group.weight)
    assert group.weight == 3
    alone, _ = store.create("bob")
    assert alone.principal(store.load().group(alone.group)).group_weight == 1


def test_nothing_that_lets_in_is_kept(store: KeyStore, keys_path: Path) -> None:
    texts = [store.create("alice")[1], store.create("bob")[1]]
    texts += [store.rotate("alice", 60)[1]]
    left = b"".join(each.read_bytes() for each in keys_path.parent.iterdir())
    for text in texts:
        assert text.encode() not in left
        assert text.split("-")[2].encode() not in left


def test_each_text_has_a_salt_of_its_own(store: KeyStore) -> None:
    made = [store.create("same") for _ in range(3)]
    again = store.rotate(made[0][0].id)
    records = [record for record, _ in (*made, again)]
    for kept in ({record.salt for record in records}, {record.digest for record in records}):
        assert len(kept) == 4
    assert len({text for _, text in (*made, again)}) == 4
    assert records[0].salt not in repr(records[0])
    assert records[0].digest not in repr(records[0])


def test_wrong_texts_let_nobody_in(store: KeyStore, clock: Clock) -> None:
    record, text = store.create("alice")
    _, other = store.create("bob")
    file = store.load()
    swapped = f"corral-{record.id}-{other.split('-')[2]}"
    wrong = [
        "", "corral", record.id, text[:-1], text + "0", text + "\n", " " + text, text.upper(), swapped,
        text[:-1] + ("1" if text.endswith("0") else "0"), f"corral-aaaaaaaa-{text.split('-')[2]}",
    ]  # fmt: skip
    for each in wrong:
        assert taken(file, each, clock()) is None, each
    assert taken(file, text, clock()) == record


def test_a_key_ends_when_it_expires(store: KeyStore, clock: Clock) -> None:
    record, text = store.create("alice", expires=BEGIN + 60)
    file = store.load()
    assert record.valid(BEGIN + 59)
    assert (taken(file, text, BEGIN + 59), taken(file, text, BEGIN + 60)) == (record, None)
    assert record.why_not(BEGIN + 59) is None
    assert record.why_not(BEGIN + 60) == "it expired on 2026-09-21 14:14 UTC"
    clock.now += 60
    with pytest.raises(KeysError, match="cannot be rotated: it expired on"):
        store.rotate("alice")


def test_a_revoked_key_ends_whatever_the_clock_says(store: KeyStore, clock: Clock) -> None:
    _, text = store.create("alice")
    _, new = store.rotate("alice", grace_s=60)
    clock.now += 10
    record = store.revoke("alice")
    assert (record.revoked, record.previous) == (BEGIN + 10, None)
    assert not record.valid(BEGIN)
    assert [taken(store.load(), each, BEGIN) for each in (text, new)] == [None, None]
    clock.now += 10
    assert store.revoke("alice") == record
    with pytest.raises(KeysError, match="cannot be rotated: it was revoked on 2026-09-21 14:13 UTC; create another"):
        store.rotate("alice")


def test_a_rotation_ends_the_old_text_at_once(store: KeyStore, clock: Clock) -> None:
    before, old = store.create("alice", "lab", limits=Limits(bulk_items=3))
    record, new = store.rotate("alice")
    file = store.load()
    assert (taken(file, old, clock()), taken(file, new, clock())) == (None, record)
    kept = {"id", "name", "group", "scopes", "limits", "weight", "created", "expires"}
    assert record.model_dump(include=kept) == before.model_dump(include=kept)


def test_with_grace_both_texts_count_until_it_ends(store: KeyStore, clock: Clock) -> None:
    _, old = store.create("alice")
    clock.now += 5
    _, new = store.rotate("alice", grace_s=600)
    file = store.load()
    for now, texts in ((BEGIN + 604, [old, new]), (BEGIN + 605, [new])):
        assert [text for text in (old, new) if taken(file, text, now)] == texts
    store.rotate("alice", grace_s=600)
    assert taken(store.load(), old, clock()) is None


def test_only_a_revoked_key_is_forgotten(store: KeyStore) -> None:
    record, text = store.create("alice")
    with pytest.raises(KeysError, match=f"is not revoked; `corral keys revoke {record.id}`"):
        store.remove("alice")
    store.revoke("alice")
    assert store.remove("alice").id == record.id
    assert store.load().keys == ()
    assert taken(store.load(), text, BEGIN) is None


def test_only_what_is_given_changes(store: KeyStore) -> None:
    first, text = store.create("alice", limits=Limits(requests_per_minute=5, bulk_items=7), expires=BEGIN + DAY_S)
    lifted = store.update("alice", limits=Limits(bulk_items=None, tokens_per_minute=9))
    assert lifted == first.model_copy(update={"limits": Limits(requests_per_minute=5, tokens_per_minute=9)})
    assert store.update("alice", weight=3).weight == 3
    assert store.update("alice", scopes=("admin", "admin")).scopes == ("admin",)
    assert store.update("alice", expires=BEGIN + 5).expires == BEGIN + 5
    assert store.update("alice", expires=None).expires is None
    last = taken(store.load(), text, BEGIN)
    assert last == lifted.model_copy(update={"weight": 3, "scopes": ("admin",), "expires": None})


def test_groups_are_made_and_changed(store: KeyStore) -> None:
    made = store.set_group("lab", Limits(requests_per_minute=5), 2)
    assert store.set_group("lab", Limits(tokens_per_minute=9)) == GroupRecord(
        name="lab", limits=Limits(requests_per_minute=5, tokens_per_minute=9), weight=2
    )
    store.create("alice", "lab")
    store.set_group("others")
    assert [group.name for group in store.load().groups] == ["lab", "others"]
    assert store.load().group("lab").weight == made.weight
    assert store.load().group("") == GroupRecord()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"name": ""}, "name: '' is no name: 1 to 64 characters"),
        ({"name": "x" * 65}, "name: 'x"),
        ({"name": "a\x1b[31m"}, "is no name"),
        ({"name": "a\nb"}, "is no name"),
        ({"name": " a"}, "no space at the ends"),
        ({"name": "\ud800"}, "is no name"),
        ({"name": "\u202eecila"}, "is no name"),
        ({"group": "a b"}, "group: 'a b' is no name of a group"),
        ({"group": "x" * 65}, "at most 64"),
        ({"scopes": ()}, "scopes: a key needs at least one scope"),
        ({"scopes": ("all",)}, "scopes: unknown scope 'all'"),
        ({"weight": 0}, "weight: input should be greater than 0"),
        ({"weight": float("nan")}, "weight: "),
        ({"weight": float("inf")}, "weight: "),
        ({"expires": float("inf")}, "expires: "),
        ({"expires": 1e12}, "expires: "),
    ],
)
def test_wrong_fields_are_named_and_nothing_is_kept(
    store: KeyStore, keys_path: Path, arguments: dict[str, Any], why: str
) -> None:
    with pytest.raises(KeysError, match=re.escape(why)):
        store.create(**{"name": "alice", **arguments})
    assert not keys_path.exists()


@pytest.mark.parametrize("name", ["", "a/b", "-x"])
def test_a_group_needs_a_name(store: KeyStore, keys_path: Path, name: str) -> None:
    with pytest.raises(KeysError, match="name"):
        store.set_group(name)
    assert not keys_path.exists()


def test_wrong_changes_leave_the_key(store: KeyStore) -> None:
    record, _ = store.create("alice")
    changes: list[dict[str, Any]] = [{"weight": -1}, {"scopes": ("x",)}, {"expires": float("nan")}]
    for change in changes:
        with pytest.raises(KeysError, match=f"^{next(iter(change))}: "):
            store.update("alice", **change)
    with pytest.raises(KeysError, match="until"):
        store.rotate("alice", grace_s=float("nan"))
    assert store.load().keys == (record,)
