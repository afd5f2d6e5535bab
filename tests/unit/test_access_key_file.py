"""The keys' file when things go wrong: damage, other people, full disks, and many who change it at once."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access import key_store
from app.access.key_records import EMPTY, KeyFile, KeyRecord, KeysError
from app.access.key_store import KeyStore, first_key
from tests.unit.access_fakes import BEGIN, ROOT, Clock, file_with, mode, taken, write


@pytest.fixture(params=[0, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_only_the_owner_reads_what_is_written(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "a" / "b" / "keys.json"
    shown = first_key(path, clock)
    assert shown is not None
    KeyStore(path, clock).create("alice")
    assert [mode(each) for each in (path.parent.parent, path.parent)] == [0o700] * 2
    assert {each.name: mode(each) for each in path.parent.iterdir()} == {
        "keys.json": 0o600, "keys.json.lock": 0o600, "first-key": 0o600,
    }  # fmt: skip


def test_a_folder_that_is_there_stays_as_it_is(keys_path: Path, store: KeyStore) -> None:
    keys_path.parent.mkdir()
    keys_path.parent.chmod(0o750)
    store.create("alice")
    assert mode(keys_path.parent) == 0o750


def test_no_file_is_no_keys_and_reading_makes_none(store: KeyStore, keys_path: Path) -> None:
    assert store.load() == EMPTY
    assert store.version() is None
    assert not keys_path.parent.exists()


def test_a_change_shows_in_the_version(store: KeyStore) -> None:
    seen = [store.version()]
    store.create("alice")
    seen.append(store.version())
    assert store.version() == seen[-1]
    store.revoke("alice")
    seen.append(store.version())
    assert len(set(seen)) == 3


def test_a_link_stays_one(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    link = tmp_path / "keys.json"
    link.symlink_to(tmp_path / "real" / "keys.json")
    assert first_key(link, clock) == tmp_path / "first-key"
    KeyStore(link, clock).create("alice")
    assert link.is_symlink()
    assert [each.name for each in KeyStore(tmp_path / "real" / "keys.json", clock).load().keys] == ["first", "alice"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "it is not what `corral keys` wrote"),
        ("{", "it is not what"),
        ("[]", "it is not what"),
        ("null", "it is not what"),
        ("{}", "it is not what"),
        (b"\xff\xfe", "it is not what"),
        ("[" * 100_000, "it is not what"),
        ('{"version": 1}', "groups: field required"),
        ('{"version": 0, "groups": [], "keys": []}', "version: input should be 1"),
        ('{"version": "2", "groups": [], "keys": []}', "version: input should be 1"),
        ('{"version": 1, "groups": [], "keys": [], "kyes": []}', "unknown key 'kyes' (did you mean 'keys'?)"),
        (json.dumps(file_with(digest="0" * 63)), "keys.0.digest: string should match pattern"),
        (json.dumps(file_with(salt="")), "keys.0.salt: "),
        (json.dumps(file_with(id="AAAAAAAA")), "keys.0.id: "),
        (json.dumps(file_with(name="\x1b")), "keys.0.name: '\\x1b' is no name"),
        (json.dumps(file_with(created=float("nan"))), "keys.0.created: "),
        (json.dumps(file_with(expires=10**400)), "keys.0.expires: "),
        (json.dumps(file_with(scopes=["root"])), "keys.0.scopes: unknown scope 'root'"),
        (json.dumps(file_with(limits={"requests_per_minute": 0})), "keys.0.limits.requests_per_minute: "),
        (json.dumps(file_with(group="lab")), "the group of the key aaaaaaaa is missing"),
        (json.dumps({**file_with(), "keys": file_with()["keys"] * 2}), "the key 'aaaaaaaa' is there twice"),
        (json.dumps({**file_with(), "groups": [{"name": "g"}] * 2}), "the group 'g' is there twice"),
        (json.dumps({**file_with(), "groups": [{"name": ""}]}), "a group needs a name"),
    ],
)
def test_a_damaged_file_is_an_error_and_stays_as_it_is(
    store: KeyStore, keys_path: Path, content: str | bytes, why: str
) -> None:
    write(keys_path, content)
    before = keys_path.read_bytes()
    for act in (store.load, lambda: store.create("alice"), lambda: store.revoke("x"), lambda: first_key(keys_path)):
        with pytest.raises(KeysError, match=re.escape(f"{keys_path} is damaged: {why}")) as caught:
            act()
        assert "; put a copy of it in its place, or move it away" in str(caught.value)
    assert keys_path.read_bytes() == before


def test_a_newer_file_is_an_error_of_its_own(store: KeyStore, keys_path: Path) -> None:
    write(keys_path, '{"version": 2, "people": []}')
    with pytest.raises(KeysError, match=r"of a newer Corral \(version 2, this one reads 1\); update Corral"):
        store.load()


def test_what_is_damaged_is_told_without_what_lies_there(store: KeyStore, keys_path: Path) -> None:
    write(keys_path, json.dumps(file_with(digest="5ec4e7" * 10, salt="5ec4e7")))
    with pytest.raises(KeysError) as caught:
        store.load()
    assert "5ec4e7" not in str(caught.value)


@pytest.mark.parametrize(
    ("bits", "done"), [(0o640, "read"), (0o604, "read"), (0o620, "write"), (0o602, "write"), (0o666, "write")]
)
def test_a_file_that_others_get_at_is_refused(store: KeyStore, keys_path: Path, bits: int, done: str) -> None:
    _, text = store.create("alice")
    keys_path.chmod(bits)
    why = re.escape(f"others may {done} {keys_path} (mode {bits:04o}); `chmod 600 {keys_path}` mends it")
    for act in (store.load, lambda: store.create("bob"), lambda: first_key(keys_path)):
        with pytest.raises(KeysError, match=why) as caught:
            act()
        assert ("see whether all of" in str(caught.value)) == (done == "write")
    keys_path.chmod(0o600)
    assert taken(store.load(), text, BEGIN) is not None


def test_somebody_elses_file_is_refused(store: KeyStore, keys_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create("alice")
    owner = keys_path.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    why = f"{keys_path} belongs to the user {owner}, .*`sudo chown {owner + 1} {keys_path}`"
    with pytest.raises(KeysError, match=why):
        store.load()


def test_a_place_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match=r"is no file; name one in access\.file"):
        KeyStore(tmp_path).load()
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeysError, match="is no file"):
        KeyStore(tmp_path / "pipe").load()
    (tmp_path / "file").touch()
    for act in (KeyStore(tmp_path / "file" / "keys.json").load, lambda: first_key(tmp_path / "file" / "keys.json")):
        with pytest.raises(KeysError, match=r"name a file in access\.file that you may read and write"):
            act()


def test_a_full_disk_leaves_the_old_file(store: KeyStore, keys_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = store.create("alice")
    before = keys_path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(KeysError, match="free some room there; nothing was changed"):
            store.create("bob")
    assert keys_path.read_bytes() == before
    assert {each.name for each in keys_path.parent.iterdir()} == {"keys.json", "keys.json.lock"}
    store.create("carol")
    assert [each.name for each in store.load().keys] == [record.name, "carol"]


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_command_that_is_killed_in_the_middle_leaves_the_old_file(store: KeyStore, keys_path: Path) -> None:
    record, text = store.create("alice")
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from app.access.key_store import KeyStore
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        KeyStore(Path(sys.argv[1])).create("bob")"""
    with run(code, keys_path) as killed:
        assert killed.wait() == -signal.SIGKILL
    assert {each.name for each in keys_path.parent.iterdir()} == {"keys.json", "keys.json.lock", ".keys.json.new"}
    assert store.load().keys == (record,)
    store.create("carol")
    assert [each.name for each in store.load().keys] == ["alice", "carol"]
    assert taken(store.load(), text, BEGIN) == record
    assert not (keys_path.parent / ".keys.json.new").exists()


def test_four_at_once_lose_nothing(keys_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from app.access.key_store import KeyStore
        store = KeyStore(Path(sys.argv[1]))
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(10):
            print(store.create(f"{sys.argv[2]} {number}")[1])"""
    processes = [run(code, keys_path, number) for number in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    texts = "".join(process.communicate()[0] for process in processes).split()
    assert [process.returncode for process in processes] == [0] * 4
    file = KeyStore(keys_path).load()
    assert sorted(key.name for key in file.keys) == sorted(f"{n} {m}" for n in range(4) for m in range(10))
    now = max(key.created for key in file.keys)
    assert {file.by_id[text.split("-")[1]] for text in texts if taken(file, text, now)} == set(file.keys)


def test_a_disk_without_locks_is_an_error(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(KeysError, match=r"knows no locks; name a file on another disk in access\.file"):
        store.create("alice")


@pytest.mark.parametrize("stale", [2, 3])
def test_a_file_that_went_stale_is_read_again(store: KeyStore, monkeypatch: pytest.MonkeyPatch, stale: int) -> None:
    record, _ = store.create("alice")
    read, left = key_store._read_once, [stale]

    def flaky(path: Path) -> KeyFile:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path)

    monkeypatch.setattr(key_store, "_read_once", flaky)
    if stale < key_store.READS:
        assert store.load().keys == (record,)
    else:
        with pytest.raises(KeysError, match="Stale file handle"):
            store.load()


JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)
FIELDS = st.sampled_from(["version", "groups", "keys", *KeyRecord.model_fields])


@given(st.one_of(st.binary(), JSON.map(lambda each: json.dumps(each).encode())))
def test_any_file_is_keys_or_an_error_of_ours(content: bytes) -> None:
    with pytest.raises(KeysError):
        key_store._parsed(Path("keys.json"), content)


@given(FIELDS, JSON)
def test_any_field_may_be_wrong(field: str, value: Any) -> None:
    data = file_with()
    (data if field in data else data["keys"][0])[field] = value
    with suppress(KeysError):
        file = key_store._parsed(Path("keys.json"), json.dumps(data).encode())
        assert key_store._parsed(Path("keys.json"), key_store._content(file)) == file
