"""The keeper and the keys' file, and what the edge is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.access.estimate import Estimate
from app.access.keeper import Keeper, edge_keys
from app.access.key_records import EMPTY, KeyFile
from app.access.key_store import KeyStore
from app.access.ledger import Ledger
from app.access.limits import Limits
from app.access.tally import Tally
from app.edge_config import EdgeKey
from tests.unit.access_fakes import BEGIN, DAY_S, Desk, line

DAMAGED = '{"version": 1, "groups": ['


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
    assert (edge_keys(EMPTY, BEGIN), keeper.names()) == ([], {})
    keeper.ended(line())
    assert [row.counts.requests for row in ledger.usage()] == [1]
    ledger.close()


def test_the_edge_knows_the_keys_that_are_taken_now(desk: Desk) -> None:
    desk.store.set_group("lab", Limits(concurrent_requests=9))
    alice = desk.record(desk.key(group="lab", limits=Limits(concurrent_requests=3)))
    bob = desk.record(desk.key("bob", expires=BEGIN + DAY_S))
    desk.store.revoke(desk.key("carol"))
    desk.keeper.reload()
    first = EdgeKey(alice.id, alice.salt, alice.digest, 3, "lab", 9)
    second = EdgeKey(bob.id, bob.salt, bob.digest)
    assert edge_keys(desk.store.load(), desk.clock()) == [first, second]
    desk.clock.now += DAY_S
    assert edge_keys(desk.store.load(), desk.clock()) == [first]


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
