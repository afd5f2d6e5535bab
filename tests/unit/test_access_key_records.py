"""Keys: how one is found, by what is typed and by its text."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.key_records import EMPTY, KeyFile, KeyRecord, KeysError
from tests.unit.access_fakes import BEGIN, file_with, taken


def test_a_digest_is_of_the_salt_and_the_whole_text() -> None:
    text = f"corral-aaaaaaaa-{'0' * 48}"
    digest = hashlib.sha256(b"0" * 32 + text.encode()).hexdigest()
    file = KeyFile.model_validate(file_with(digest=digest))
    assert taken(file, text, BEGIN) is file.keys[0]
    assert taken(file, text[:-1] + "1", BEGIN) is None


def test_a_key_is_found_by_its_name_or_the_beginning_of_its_id() -> None:
    names = {"abcdefgh": "alice", "abcdzzzz": "bob", "zzzzzzzz": "bob", "bobbobbo": "carol", "qqqqqqqq": "zzzzzzzz"}
    keys = [file_with(id=key_id, name=name)["keys"][0] for key_id, name in names.items()]
    file = KeyFile.model_validate({"version": 1, "groups": [], "keys": keys})
    found = {each: file.named(each).id for each in ("abcde", "alice", "carol", "zzzzzzzz", "abcdzzzz", "q", "zz")}
    assert found == {
        "abcde": "abcdefgh", "alice": "abcdefgh", "carol": "bobbobbo", "zzzzzzzz": "zzzzzzzz", "abcdzzzz": "abcdzzzz",
        "q": "qqqqqqqq", "zz": "zzzzzzzz",
    }  # fmt: skip
    assert file.named(f"corral-abcdefgh-{'0' * 48}").id == "abcdefgh"
    with pytest.raises(KeysError, match=re.escape("'abcd' may be each of abcdefgh (alice), abcdzzzz (bob); write")):
        file.named("abcd")
    with pytest.raises(KeysError, match=re.escape("'bob' may be each of abcdzzzz (bob), zzzzzzzz (bob); write")):
        file.named("bob")
    for none in ("", "nobody", "ABCDEFGH"):
        with pytest.raises(KeysError, match=f"there is no key '{none}'; `corral keys list`"):
            file.named(none)


def test_a_name_means_the_same_key_whatever_ids_begin_so() -> None:
    names = {"cia6hbdw": "alice, laptop", "6cf5x6n4": "c"}
    keys = [file_with(id=key_id, name=name)["keys"][0] for key_id, name in names.items()]
    file = KeyFile.model_validate({"version": 1, "groups": [], "keys": keys})
    assert (file.named("c").id, file.named("ci").id) == ("6cf5x6n4", "cia6hbdw")


def test_an_error_does_not_repeat_a_secret() -> None:
    for typed in (f"corral-aaaaaaaa-{'3' * 48}", "3" * 48, f"corral-aaaaaaaa-{'3' * 47}"):
        with pytest.raises(KeysError) as caught:
            EMPTY.named(typed)
        assert "333" not in str(caught.value)


RECORD = KeyRecord.model_validate(file_with()["keys"][0])


@given(st.one_of(st.text(), st.characters(codec=None).map(lambda each: "corral-" + each)))
def test_any_reference_is_a_key_or_an_error_of_ours(text: str) -> None:
    file = EMPTY.with_key(RECORD)
    try:
        found = file.named(text)
    except KeysError:
        assert text != RECORD.name
    else:
        assert found is RECORD
        assert text == RECORD.name or RECORD.id.startswith(text)
