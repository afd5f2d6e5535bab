"""The first key, which is made where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.access.key_store import KeyStore, first_key
from app.access.limits import Limits
from tests.unit.access_fakes import Clock, taken


def test_the_first_key_may_do_everything_and_is_made_once(keys_path: Path, clock: Clock) -> None:
    place = first_key(keys_path, clock)
    assert place == keys_path.parent / "first-key"
    text = place.read_text().removesuffix("\n")
    record = taken(KeyStore(keys_path, clock).load(), text, clock())
    assert record is not None
    assert (record.name, record.scopes, record.limits, record.expires) == ("first", ("admin",), Limits(), None)
    assert first_key(keys_path, clock) is None
    KeyStore(keys_path, clock).revoke("first")
    assert first_key(keys_path, clock) is None
    KeyStore(keys_path, clock).remove("first")
    assert first_key(keys_path, clock) == place
    assert taken(KeyStore(keys_path, clock).load(), place.read_text().strip(), clock()) is not None


def test_where_there_are_keys_no_first_one_is_made(store: KeyStore, keys_path: Path) -> None:
    store.create("alice")
    assert first_key(keys_path) is None
    assert not (keys_path.parent / "first-key").exists()


def test_a_first_key_does_not_count_before_its_text_is_there(
    keys_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    replace = Path.replace

    def noted(self: Path, target: Path) -> Path:
        names.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    first_key(keys_path, clock)
    assert names == ["first-key", "keys.json"]
