"""Keeper: decides about every request to a service, and counts what it took. One for each service, in one thread.

The edge asks it before it passes a request on and tells it of each end; replicas tell it of tokens, the gateway of bulk
items. What it decides by, the keys' file, may change at any time.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from app.access.counts import Counts
from app.access.estimate import Estimate, prompt_tokens
from app.access.key_records import EMPTY, KeyFile, KeyRecord, KeysError
from app.access.key_store import KeyStore
from app.access.ledger import Ledger
from app.access.limits import Limits
from app.access.quota import Quota, Refusal
from app.access.rules import needed
from app.access.tally import Tally
from app.edge_config import EdgeKey
from deployments.principal import HEADER

log = logging.getLogger("corral.keeper")
INVALID, LIMITED = "invalid_request_error", "rate_limit_error"
BULK = "/bulk"
BATCHES_KEPT = 4096
"""Ids of batches of usage that were counted, so that one that comes twice is not."""


@dataclass(frozen=True)
class Asked:
    """A request as the edge sees it. model: what its body names, if the edge looked.

    answer_tokens: the longest that each of its answers may be, if it says so. answers: how many it asks for.
    """

    request: str
    key: str
    method: str
    path: str
    model: str | None = None
    body_bytes: int = 0
    answer_tokens: int | None = None
    answers: int = 1


@dataclass(frozen=True)
class Answer:
    """What the edge is told. Its headers go to the client, but for the principal, which goes on with the request."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Keeper:
    """store: the keys; None where none are asked for. local: seconds of a clock that nobody moves."""

    store: KeyStore | None
    ledger: Ledger
    estimate: Estimate
    tally: Tally
    clock: Callable[[], float] = time.time
    local: Callable[[], float] = time.monotonic
    _file: KeyFile = field(default=EMPTY, init=False)
    _version: object = field(default=None, init=False)
    _batches: OrderedDict[str, None] = field(default_factory=OrderedDict, init=False)

    def __post_init__(self) -> None:
        self.quota = Quota(self._limits, self.local)

    def reload(self) -> None:
        """Look whether the keys' file has changed. A damaged one leaves what was known."""
        if self.store is None:
            return
        try:
            version = self.store.version()
            if version != self._version:
                self._file, self._version = self.store.load(), version
        except KeysError as error:
            log.error("the keys cannot be read, so nothing changes: %s", error)

    def admit(self, asked: Asked) -> Answer:
        """Whether a request is served now. What is refused costs its key nothing."""
        record = self._file.by_id.get(asked.key)
        if record is None or (why := record.why_not(self.clock())):
            because = why if record else "it is not known here"
            return _refused(401, f"This API key is not taken: {because}.", INVALID, "invalid_api_key")
        principal = replace(record.principal(self._file.group(record.group)), request=asked.request)
        need = needed(asked.method, asked.path, asked.model)
        if need and not need.met_by(principal):
            self.tally.refused("not_allowed")
            message = f"This API key may not do this; it needs the scope {need}."
            return _refused(403, message, INVALID, "not_allowed", "model" if asked.model else None)
        if asked.method == "POST":
            tokens = self._reserve(asked)
            if refusal := self.quota.admit(_held(record.id, asked.request), record.id, record.group, tokens):
                return self._over(refusal, record)
        return Answer(headers={HEADER: principal.to_header(), **self._headroom(record)})

    def admit_items(self, request: str, key: str, items: int, tokens: int) -> Answer:
        """Whether a bulk call is served now, of so many items, which may take so many tokens in all."""
        record = self._file.by_id.get(key)
        if record is None:
            return Answer()
        refusal = self.quota.admit_items(_held(key, request), key, record.group, items, tokens)
        return self._over(refusal, record) if refusal else Answer()

    def used(self, batch: str, events: Iterable[Mapping[str, Any]]) -> None:
        """Tokens that engines have counted; the same batch counts once."""
        if batch in self._batches:
            return
        read = [_used(event) for event in events]
        self._batches[batch] = None
        while len(self._batches) > BATCHES_KEPT:
            self._batches.popitem(last=False)
        for request, key, group, model, prompt, answer in read:
            self.quota.used(_held(key, request), prompt, answer)
            self.ledger.note(key, group, model, Counts(prompt_tokens=prompt, completion_tokens=answer))
            self.tally.tokens(model, prompt, answer)

    def items_done(self, request: str, key: str, count: int) -> None:
        """So many items of a bulk call are answered."""
        self.quota.items_done(_held(key, request), count)
        self.ledger.note(key, self._group(key), BULK, Counts(bulk_items=count))

    def ended(self, line: bytes) -> None:
        """One line of the edge's log: a request has ended."""
        try:
            seen = json.loads(line)
            status = int(seen["status"])
            request, key, model, path, method = (str(seen[name]) for name in ("uid", "key", "model", "path", "method"))
        except (ValueError, KeyError, TypeError):
            return
        key = "" if key == "-" else key
        model = path[:64].split("?")[0] if model == "-" else model
        self.quota.ended(_held(key, request))
        self.tally.ended(seen, status)
        if method == "POST" and (key or status != 401):
            counts = Counts(1, refused=int(400 <= status < 500), failed=int(status >= 500 or status < 200))
            self.ledger.note(key, self._group(key), _counted_as(model), counts)

    def names(self) -> dict[str, str]:
        """Id of every key -> its name."""
        return {record.id: record.name for record in self._file.keys}

    def _reserve(self, asked: Asked) -> int:
        """Tokens. Of a bulk call its text alone: what its answers may take, the gateway tells with their number."""
        if asked.path == BULK:
            return prompt_tokens(asked.body_bytes)
        return self.estimate.tokens(asked.model, asked.body_bytes, asked.answer_tokens, asked.answers)

    def _group(self, key: str) -> str:
        record = self._file.by_id.get(key)
        return record.group if record else ""

    def _limits(self, key: str, group: str) -> tuple[Limits, Limits]:
        record = self._file.by_id.get(key)
        return (record.limits if record else Limits(), self._file.group(group).limits if group else Limits())

    def _over(self, refusal: Refusal, record: KeyRecord) -> Answer:
        self.tally.refused(refusal.reason)
        if refusal.retry_after_s is None:
            return _refused(400, refusal.message, INVALID, refusal.reason)
        wait = {"retry-after": str(max(1, ceil(refusal.retry_after_s)))}
        return _refused(429, refusal.message, LIMITED, refusal.reason, None, {**wait, **self._headroom(record)})

    def _headroom(self, record: KeyRecord) -> dict[str, str]:
        """As headers."""
        return {name: str(ceil(left)) for name, left in self.quota.headroom(record.id, record.group).items()}


def edge_keys(file: KeyFile, now: float) -> list[EdgeKey]:
    """The keys that are taken now, as the edge needs them; after a rotation the ones before it, too."""
    found = []
    for record in file.keys:
        if not record.valid(now):
            continue
        group = file.group(record.group).limits if record.group else Limits()
        most = (record.limits.concurrent_requests or 0, record.group, group.concurrent_requests or 0)
        found.append(EdgeKey(record.id, record.salt, record.digest, *most))
        if record.previous and now < record.previous.until:
            found.append(EdgeKey(record.id, record.previous.salt, record.previous.digest, *most, old=True))
    return found


def _used(event: Mapping[str, Any]) -> tuple[str, str, str, str, int, int]:
    request, key, group, model = (str(event[name]) for name in ("request", "key", "group", "model"))
    return request, key, group, model, int(event["prompt_tokens"]), int(event["completion_tokens"])


def _held(key: str, request: str) -> str:
    """A request's id among those of all keys: clients choose their own, and two may choose the same."""
    return f"{key} {request}"


def _counted_as(model: str) -> str:
    """A model's id, or the first two words of a path of ours, so that nobody fills the ledger with names."""
    if not model.startswith("/"):
        return model
    path = "/".join(model.split("/")[:3])
    return path if path in (BULK, "/generate", "/v1/tribunal", "/v1/rag", "/v1/embeddings") else "other"


def _refused(
    status: int, message: str, kind: str, code: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    error = {"message": message, "type": kind, "param": param, "code": code}
    return Answer(status, json.dumps({"error": error}).encode(), headers or {})
