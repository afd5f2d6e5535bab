"""Keys: what is kept of them, who gets in, and what becomes of the file when things go wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access import keys as keys_module
from app.access.keys import EMPTY, KEY, GroupRecord, KeyFile, KeyRecord, KeysError, KeyStore, check, first_key
from app.access.limits import Limits
from deployments.principal import Principal

ROOT = Path(__file__).parents[2]
BEGIN = 1_790_000_000.0
DAY_S = 86_400


class Clock:
    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "keys.json"


@pytest.fixture
def store(path: Path, clock: Clock) -> KeyStore:
    return KeyStore(path, clock)


@pytest.fixture(params=[0, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def file_with(**changes: Any) -> dict[str, Any]:
    key = {"id": "aaaaaaaa", "name": "a", "salt": "0" * 32, "digest": "0" * 64, "created": BEGIN, **changes}
    return {"version": 1, "groups": [], "keys": [key]}


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_a_key_comes_back_as_it_was_made(store: KeyStore, path: Path, clock: Clock) -> None:
    limits = Limits(requests_per_minute=60, bulk_items=5)
    record, text = store.create("alice, laptop", "lab", ("rag:handbook", "metrics"), limits, 2.5, BEGIN + DAY_S)
    assert KEY.fullmatch(text)
    assert text.split("-")[1] == record.id
    again = KeyStore(path, clock).load()
    assert again.keys == (record,)
    assert again.groups == (GroupRecord(name="lab"),)
    assert again.find(text, clock()) == record
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


def test_nothing_that_lets_in_is_kept(store: KeyStore, path: Path) -> None:
    texts = [store.create("alice")[1], store.create("bob")[1]]
    texts += [store.rotate("alice", 60)[1]]
    left = b"".join(each.read_bytes() for each in path.parent.iterdir())
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


def test_a_digest_is_of_the_salt_and_the_whole_text() -> None:
    text = f"corral-aaaaaaaa-{'0' * 48}"
    digest = hashlib.sha256(b"0" * 32 + text.encode()).hexdigest()
    file = KeyFile.model_validate(file_with(digest=digest))
    assert file.find(text, BEGIN) is file.keys[0]
    assert file.find(text[:-1] + "1", BEGIN) is None


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


def test_a_folder_that_is_there_stays_as_it_is(path: Path, store: KeyStore) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o750)
    store.create("alice")
    assert mode(path.parent) == 0o750


def test_no_file_is_no_keys_and_reading_makes_none(store: KeyStore, path: Path) -> None:
    assert store.load() == EMPTY
    assert store.version() is None
    assert not path.parent.exists()


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
        assert file.find(each, clock()) is None, each
        assert file.owner(each, clock()) is None, each
        assert not check(record, each, clock()), each
    assert check(record, text, clock())


def test_a_key_ends_when_it_expires(store: KeyStore, clock: Clock) -> None:
    record, text = store.create("alice", expires=BEGIN + 60)
    file = store.load()
    assert record.valid(BEGIN + 59)
    assert check(record, text, BEGIN + 59)
    assert not check(record, text, BEGIN + 60)
    assert (file.find(text, BEGIN + 59), file.find(text, BEGIN + 60)) == (record, None)
    assert file.owner(text, BEGIN + 60) == record
    assert record.why_not(BEGIN + 59) is None
    assert record.why_not(BEGIN + 60) == "it expired on 2026-09-21 14:14 UTC"
    clock.now += 60
    with pytest.raises(KeysError, match="cannot be rotated: it expired on"):
        store.rotate("alice")


def test_a_revoked_key_ends_whatever_the_clock_says(store: KeyStore, clock: Clock) -> None:
    _, text = store.create("alice")
    store.rotate("alice", grace_s=60)
    clock.now += 10
    record = store.revoke("alice")
    assert (record.revoked, record.previous) == (BEGIN + 10, None)
    assert not record.valid(BEGIN)
    assert store.load().owner(text, BEGIN) is None
    clock.now += 10
    assert store.revoke("alice") == record
    with pytest.raises(KeysError, match="cannot be rotated: it was revoked on 2026-09-21 14:13 UTC; create another"):
        store.rotate("alice")


def test_a_revoked_keys_text_is_still_known(store: KeyStore, clock: Clock) -> None:
    _, text = store.create("alice")
    record = store.revoke("alice")
    assert store.load().find(text, clock()) is None
    assert store.load().owner(text, clock()) == record


def test_a_rotation_ends_the_old_text_at_once(store: KeyStore, clock: Clock) -> None:
    before, old = store.create("alice", "lab", limits=Limits(bulk_items=3))
    record, new = store.rotate("alice")
    file = store.load()
    assert (file.find(old, clock()), file.find(new, clock())) == (None, record)
    kept = {"id", "name", "group", "scopes", "limits", "weight", "created", "expires"}
    assert record.model_dump(include=kept) == before.model_dump(include=kept)


def test_with_grace_both_texts_count_until_it_ends(store: KeyStore, clock: Clock) -> None:
    _, old = store.create("alice")
    clock.now += 5
    record, new = store.rotate("alice", grace_s=600)
    file = store.load()
    for now, texts in ((BEGIN + 604, [old, new]), (BEGIN + 605, [new])):
        assert [text for text in (old, new) if file.find(text, now)] == texts
        assert [text for text in (old, new) if check(record, text, now)] == texts
    store.rotate("alice", grace_s=600)
    assert store.load().find(old, clock()) is None


def test_only_a_revoked_key_is_forgotten(store: KeyStore) -> None:
    record, text = store.create("alice")
    with pytest.raises(KeysError, match=f"is not revoked; `corral keys revoke {record.id}`"):
        store.remove("alice")
    store.revoke("alice")
    assert store.remove("alice").id == record.id
    assert store.load().keys == ()
    assert store.load().owner(text, BEGIN) is None


def test_only_what_is_given_changes(store: KeyStore) -> None:
    first, text = store.create("alice", limits=Limits(requests_per_minute=5, bulk_items=7), expires=BEGIN + DAY_S)
    lifted = store.update("alice", limits=Limits(bulk_items=None, tokens_per_minute=9))
    assert lifted == first.model_copy(update={"limits": Limits(requests_per_minute=5, tokens_per_minute=9)})
    assert store.update("alice", weight=3).weight == 3
    assert store.update("alice", scopes=("admin", "admin")).scopes == ("admin",)
    assert store.update("alice", expires=BEGIN + 5).expires == BEGIN + 5
    assert store.update("alice", expires=None).expires is None
    last = store.load().find(text, BEGIN)
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
    store: KeyStore, path: Path, arguments: dict[str, Any], why: str
) -> None:
    with pytest.raises(KeysError, match=re.escape(why)):
        store.create(**{"name": "alice", **arguments})
    assert not path.exists()


@pytest.mark.parametrize("name", ["", "a/b", "-x"])
def test_a_group_needs_a_name(store: KeyStore, path: Path, name: str) -> None:
    with pytest.raises(KeysError, match="name"):
        store.set_group(name)
    assert not path.exists()


def test_wrong_changes_leave_the_key(store: KeyStore) -> None:
    record, _ = store.create("alice")
    changes: list[dict[str, Any]] = [{"weight": -1}, {"scopes": ("x",)}, {"expires": float("nan")}]
    for change in changes:
        with pytest.raises(KeysError, match=f"^{next(iter(change))}: "):
            store.update("alice", **change)
    with pytest.raises(KeysError, match="until"):
        store.rotate("alice", grace_s=float("nan"))
    assert store.load().keys == (record,)


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
    with pytest.raises(KeysError, match=r"'bob' may be each of abcdzzzz .*, zzzzzzzz .*, bobbobbo \(carol\)"):
        file.named("bob")
    for none in ("", "nobody", "ABCDEFGH"):
        with pytest.raises(KeysError, match=f"there is no key '{none}'; `corral keys list`"):
            file.named(none)


def test_an_error_does_not_repeat_a_secret() -> None:
    for typed in (f"corral-aaaaaaaa-{'3' * 48}", "3" * 48, f"corral-aaaaaaaa-{'3' * 47}"):
        with pytest.raises(KeysError) as caught:
            EMPTY.named(typed)
        assert "333" not in str(caught.value)


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
    store: KeyStore, path: Path, content: str | bytes, why: str
) -> None:
    write(path, content)
    before = path.read_bytes()
    for act in (store.load, lambda: store.create("alice"), lambda: store.revoke("x"), lambda: first_key(path)):
        with pytest.raises(KeysError, match=re.escape(f"{path} is damaged: {why}")) as caught:
            act()
        assert "; put a copy of it in its place, or move it away" in str(caught.value)
    assert path.read_bytes() == before


def test_a_newer_file_is_an_error_of_its_own(store: KeyStore, path: Path) -> None:
    write(path, '{"version": 2, "people": []}')
    with pytest.raises(KeysError, match=r"of a newer Corral \(version 2, this one reads 1\); update Corral"):
        store.load()


def test_what_is_damaged_is_told_without_what_lies_there(store: KeyStore, path: Path) -> None:
    write(path, json.dumps(file_with(digest="5ec4e7" * 10, salt="5ec4e7")))
    with pytest.raises(KeysError) as caught:
        store.load()
    assert "5ec4e7" not in str(caught.value)


@pytest.mark.parametrize(
    ("bits", "done"), [(0o640, "read"), (0o604, "read"), (0o620, "write"), (0o602, "write"), (0o666, "write")]
)
def test_a_file_that_others_get_at_is_refused(store: KeyStore, path: Path, bits: int, done: str) -> None:
    _, text = store.create("alice")
    path.chmod(bits)
    why = re.escape(f"others may {done} {path} (mode {bits:04o}); `chmod 600 {path}` mends it")
    for act in (store.load, lambda: store.create("bob"), lambda: first_key(path)):
        with pytest.raises(KeysError, match=why) as caught:
            act()
        assert ("see whether all of" in str(caught.value)) == (done == "write")
    path.chmod(0o600)
    assert store.load().find(text, BEGIN) is not None


def test_somebody_elses_file_is_refused(store: KeyStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create("alice")
    owner = path.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    why = f"{path} belongs to the user {owner}, .*`sudo chown {owner + 1} {path}`"
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


def test_a_full_disk_leaves_the_old_file(store: KeyStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = store.create("alice")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(KeysError, match="free some room there; nothing was changed"):
            store.create("bob")
    assert path.read_bytes() == before
    assert {each.name for each in path.parent.iterdir()} == {"keys.json", "keys.json.lock"}
    store.create("carol")
    assert [each.name for each in store.load().keys] == [record.name, "carol"]


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_command_that_is_killed_in_the_middle_leaves_the_old_file(store: KeyStore, path: Path) -> None:
    record, text = store.create("alice")
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from app.access.keys import KeyStore
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        KeyStore(Path(sys.argv[1])).create("bob")"""
    with run(code, path) as killed:
        assert killed.wait() == -signal.SIGKILL
    assert {each.name for each in path.parent.iterdir()} == {"keys.json", "keys.json.lock", ".keys.json.new"}
    assert store.load().keys == (record,)
    store.create("carol")
    assert [each.name for each in store.load().keys] == ["alice", "carol"]
    assert store.load().find(text, BEGIN) == record
    assert not (path.parent / ".keys.json.new").exists()


def test_four_at_once_lose_nothing(path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from app.access.keys import KeyStore
        store = KeyStore(Path(sys.argv[1]))
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(10):
            print(store.create(f"{sys.argv[2]} {number}")[1])"""
    processes = [run(code, path, number) for number in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    texts = "".join(process.communicate()[0] for process in processes).split()
    assert [process.returncode for process in processes] == [0] * 4
    file = KeyStore(path).load()
    assert sorted(key.name for key in file.keys) == sorted(f"{n} {m}" for n in range(4) for m in range(10))
    now = max(key.created for key in file.keys)
    assert {file.by_id[text.split("-")[1]] for text in texts if file.find(text, now)} == set(file.keys)


def test_a_disk_without_locks_is_an_error(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(KeysError, match=r"knows no locks; name a file on another disk in access\.file"):
        store.create("alice")


@pytest.mark.parametrize("stale", [2, 3])
def test_a_file_that_went_stale_is_read_again(store: KeyStore, monkeypatch: pytest.MonkeyPatch, stale: int) -> None:
    record, _ = store.create("alice")
    read, left = keys_module._read_once, [stale]

    def flaky(path: Path) -> KeyFile:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path)

    monkeypatch.setattr(keys_module, "_read_once", flaky)
    if stale < keys_module.READS:
        assert store.load().keys == (record,)
    else:
        with pytest.raises(KeysError, match="Stale file handle"):
            store.load()


def test_the_first_key_may_do_everything_and_is_made_once(path: Path, clock: Clock) -> None:
    place = first_key(path, clock)
    assert place == path.parent / "first-key"
    text = place.read_text().removesuffix("\n")
    record = KeyStore(path, clock).load().find(text, clock())
    assert record is not None
    assert (record.name, record.scopes, record.limits, record.expires) == ("first", ("admin",), Limits(), None)
    assert first_key(path, clock) is None
    KeyStore(path, clock).revoke("first")
    assert first_key(path, clock) is None
    KeyStore(path, clock).remove("first")
    assert first_key(path, clock) == place
    assert KeyStore(path, clock).load().find(place.read_text().strip(), clock()) is not None


def test_where_there_are_keys_no_first_one_is_made(store: KeyStore, path: Path) -> None:
    store.create("alice")
    assert first_key(path) is None
    assert not (path.parent / "first-key").exists()


def test_a_first_key_does_not_count_before_its_text_is_there(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    replace = Path.replace

    def noted(self: Path, target: Path) -> Path:
        names.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    first_key(path, clock)
    assert names == ["first-key", "keys.json"]


RECORD = KeyRecord.model_validate(file_with()["keys"][0])


@given(st.one_of(st.text(), st.from_regex(KEY, fullmatch=True), st.from_regex(KEY)))
def test_any_text_is_somebodys_or_nobodys(text: str) -> None:
    file = EMPTY.with_key(RECORD)
    assert file.find(text, BEGIN) is file.owner(text, BEGIN) is None
    assert check(RECORD, text, BEGIN) is False


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


JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)
FIELDS = st.sampled_from(["version", "groups", "keys", *KeyRecord.model_fields])


@given(st.one_of(st.binary(), JSON.map(lambda each: json.dumps(each).encode())))
def test_any_file_is_keys_or_an_error_of_ours(content: bytes) -> None:
    with pytest.raises(KeysError):
        keys_module._parsed(Path("keys.json"), content)


@given(FIELDS, JSON)
def test_any_field_may_be_wrong(field: str, value: Any) -> None:
    data = file_with()
    (data if field in data else data["keys"][0])[field] = value
    with suppress(KeysError):
        file = keys_module._parsed(Path("keys.json"), json.dumps(data).encode())
        assert keys_module._parsed(Path("keys.json"), keys_module._text(file).encode()) == file
