"""What the tests of access share: a clock that stands still, keys and their file, a keeper, a quota, ledgers."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.access.counts import Counts
from app.access.estimate import Estimate
from app.access.keeper import Answer, Asked, Keeper, edge_keys
from app.access.key_records import KeyFile, KeyRecord
from app.access.key_store import KeyStore
from app.access.ledger import Ledger
from app.access.limits import Limits
from app.access.quota import Quota, Refusal
from app.access.tally import Tally
from app.access.window import TICKS
from deployments.principal import CURRENT, SECRET_HEADER, Principal

ROOT = Path(__file__).parents[2]
BEGIN = 1_790_000_000.0
"""14:13 on 2026-09-21, UTC."""
DAY_S = 86_400
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
BUCKET_S = 1 / TICKS
SECRET = "5ec2e7" * 10
INSIDE = {SECRET_HEADER: SECRET}


@dataclass
class Clock:
    now: float = BEGIN

    def __call__(self) -> float:
        return self.now


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


# Keys.


def file_with(**changes: Any) -> dict[str, Any]:
    key = {"id": "aaaaaaaa", "name": "a", "salt": "0" * 32, "digest": "0" * 64, "created": BEGIN, **changes}
    return {"version": 1, "groups": [], "keys": [key]}


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def taken(file: KeyFile, text: str, now: float) -> KeyRecord | None:
    """Whose text this is, looked for among the keys that the edge takes and as the edge does."""
    for key in edge_keys(file, now):
        digest = hashlib.sha256((key.salt + text).encode()).hexdigest()
        if text.startswith(f"corral-{key.id}-") and digest == key.digest:
            return file.by_id[key.id]
    return None


def acting(*scopes: str) -> AbstractContextManager[None]:
    """As a key with these scopes."""
    return acting_as(Principal("aaaaaaaa", scopes=scopes))


@contextmanager
def acting_as(principal: Principal) -> Iterator[None]:
    token = CURRENT.set(principal)
    try:
        yield
    finally:
        CURRENT.reset(token)


# The keeper.


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


@contextmanager
def open_desk(folder: Path) -> Iterator[Desk]:
    clock, local = Clock(), Clock(1000.0)
    path = folder / "keys.json"
    store, ledger = KeyStore(path, clock), Ledger.open(folder / "usage.db", clock)
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
    """What an engine tells of a request's tokens."""
    named = {"request": request, "key": key, "group": "", "model": "llama", **more}
    return {**named, "prompt_tokens": prompt, "completion_tokens": completion}


def asking(key: str, **more: str) -> dict[str, str]:
    """What the edge asks the keeper with."""
    return {**INSIDE, "x-request": "r1", "x-key": key, "x-method": "POST", "x-path": "/generate", **more}


# The quota.


@dataclass
class Book:
    """Limits of keys and groups by name, as they are now."""

    keys: dict[str, Limits] = field(default_factory=dict)
    groups: dict[str, Limits] = field(default_factory=dict)

    def __call__(self, key: str, group: str) -> tuple[Limits, Limits]:
        return self.keys.get(key, Limits()), self.groups.get(group, Limits())


def quota_of(key: Limits | None = None, group: Limits | None = None) -> tuple[Quota, Clock, Book]:
    """Of the key `k` and the group `g`."""
    clock, book = Clock(1000.0), Book({"k": key or Limits()}, {"g": group or Limits()})
    return Quota(book, clock), clock, book


def refused(refusal: Refusal | None) -> Refusal:
    assert refusal is not None
    return refusal


def admit_many(quota: Quota, names: str, tokens: int = 0, key: str = "k") -> list[bool]:
    return [quota.admit(name, key, "g", tokens) is None for name in names]


# Ledgers.


def total(path: Path) -> Counts:
    """All that is in a file."""
    with closing(Ledger.open(path)) as found:
        return sum((row.counts for row in found.usage()), Counts())


def filled(path: Path, keys: int, counts: Counts = Counts(1)) -> Path:  # noqa: B008 (frozen)
    with closing(Ledger.open(path, Clock())) as found:
        for number in range(keys):
            found.note(f"key{number}", "g", "m", counts)
    return path


def damage(path: Path, how: str) -> bytes:
    """What is in the file then."""
    if how == "cut off":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "other text":
        path.write_text("not a database at all\n" * 1000)
    else:
        begin = 0 if how == "no header" else path.stat().st_size // 2
        with path.open("r+b") as file:
            file.seek(begin)
            file.write(bytes(8192))
    return path.read_bytes()


DAMAGES = ("cut off", "other text", "no header", "a hole")
