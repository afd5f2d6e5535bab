"""Keys and groups: what is kept of them, and how a key's text and what is kept of it are made.

A text is shown once and is nowhere: its record has a digest of it, by which the edge knows it (edge.lua).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import Counter
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from app.access.limits import Limits
from app.access.scopes import DEFAULT_SCOPES, check_scopes
from deployments.config import Section
from deployments.principal import Principal

KEY = re.compile(r"corral-([a-z2-7]{8})-([0-9a-f]{48})")
"""A key's text: its id, which is no secret, and 24 random bytes."""
VERSION = 1
LONGEST_NAME = 64
_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_GROUP = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
_HEX = re.compile(r"[0-9A-Fa-f]{16,}")

Record = TypeVar("Record", "KeyRecord", "GroupRecord")


class KeysError(Exception):
    """What is wrong with the keys, where, and what mends it."""


def _label(text: str) -> str:
    if not 1 <= len(text) <= LONGEST_NAME or text != text.strip() or not text.isprintable():
        raise ValueError(
            f"{text[:LONGEST_NAME]!r} is no name: 1 to {LONGEST_NAME} characters that can be printed, no space at the "
            "ends; for example 'alice, laptop'"
        )
    return text


def _group_name(text: str) -> str:
    if text and not _GROUP.fullmatch(text):
        raise ValueError(
            f"{text[:LONGEST_NAME]!r} is no name of a group: letters, digits, '.', '_' and '-', at most "
            f"{LONGEST_NAME}, a letter or digit first"
        )
    return text


Id = Annotated[str, StringConstraints(pattern=r"^[a-z2-7]{8}$")]
Label = Annotated[str, AfterValidator(_label)]
GroupName = Annotated[str, AfterValidator(_group_name)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Moment = Annotated[float, Field(ge=0, lt=32_503_680_000, allow_inf_nan=False)]
"""Unix time, before the year 3000."""
Salt = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Earlier(Section):
    """The text that a rotation replaced, which counts for a while."""

    salt: Salt = Field(repr=False)
    digest: Digest = Field(repr=False)
    until: Moment


class GroupRecord(Section):
    """Keys that share limits. Without a name: of the keys that belong to none."""

    name: GroupName = ""
    limits: Limits = Limits()
    weight: Weight = 1


class KeyRecord(Section):
    """What is kept of a key."""

    id: Id
    name: Label
    group: GroupName = ""
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    limits: Limits = Limits()
    weight: Weight = 1
    salt: Salt = Field(repr=False)
    digest: Digest = Field(repr=False)
    created: Moment
    expires: Moment | None = None
    revoked: Moment | None = None
    previous: Earlier | None = None

    @field_validator("scopes")
    @classmethod
    def _are_scopes(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        return check_scopes(scopes)

    def valid(self, now: float) -> bool:
        return self.why_not(now) is None

    def why_not(self, now: float) -> str | None:
        """Why this key is not taken. A revoked one never is, whatever the clock of the host that revoked it said."""
        if self.revoked is not None:
            return f"it was revoked on {moment_text(self.revoked)}"
        if self.expires is not None and now >= self.expires:
            return f"it expired on {moment_text(self.expires)}"
        return None

    def principal(self, group: GroupRecord) -> Principal:
        return Principal(self.id, self.group, self.scopes, self.weight, group.weight)


class KeyFile(Section):
    """All keys and groups, as they lie in the file."""

    version: Literal[1]
    groups: tuple[GroupRecord, ...]
    keys: tuple[KeyRecord, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [group.name for group in self.groups]
        if "" in names:
            raise ValueError("a group needs a name")
        for kind, found in (("group", names), ("key", [key.id for key in self.keys])):
            if twice := [each for each, times in Counter(found).items() if times > 1]:
                raise ValueError(f"the {kind} {twice[0]!r} is there twice")
        if strays := [key.id for key in self.keys if key.group and key.group not in names]:
            raise ValueError(f"the group of the key {strays[0]} is missing")
        return self

    @cached_property
    def by_id(self) -> dict[str, KeyRecord]:
        return {key.id: key for key in self.keys}

    @cached_property
    def _groups_by_name(self) -> dict[str, GroupRecord]:
        return {group.name: group for group in self.groups}

    def group(self, name: str) -> GroupRecord:
        """Without limits if there is none of that name."""
        return self._groups_by_name.get(name) or GroupRecord(name=name)

    def named(self, reference: str) -> KeyRecord:
        """Of this id, else the only one of this name, else the only one whose id begins so. Raises KeysError."""
        match = KEY.fullmatch(reference)
        wanted = match[1] if match else reference
        if wanted in self.by_id:
            return self.by_id[wanted]
        # Ids are drawn by chance: a name in full must mean the same key whatever another's id begins with.
        found = [key for key in self.keys if key.name == wanted]
        if wanted and not found:
            found = [key for key in self.keys if key.id.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        shown = _HEX.sub("...", wanted[:LONGEST_NAME])  # an error must not repeat half a secret
        if not found:
            raise KeysError(f"there is no key {shown!r}; `corral keys list` shows those there are")
        which = ", ".join(f"{key.id} ({key.name})" for key in found)
        raise KeysError(f"{shown!r} may be each of {which}; write the id")

    def with_key(self, record: KeyRecord) -> KeyFile:
        """With this key in the place of the one with its id, or as the last."""
        keys = {**self.by_id, record.id: record}
        return KeyFile(version=VERSION, groups=self.groups, keys=tuple(keys.values()))

    def without_key(self, key_id: str) -> KeyFile:
        keys = tuple(key for key in self.keys if key.id != key_id)
        return KeyFile(version=VERSION, groups=self.groups, keys=keys)

    def with_group(self, record: GroupRecord) -> KeyFile:
        """With this group in the place of the one with its name, or as the last."""
        groups = {**self._groups_by_name, record.name: record}
        return KeyFile(version=VERSION, groups=tuple(groups.values()), keys=self.keys)


EMPTY = KeyFile(version=VERSION, groups=(), keys=())


def moment_text(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def new_key(file: KeyFile, now: float, **fields: Any) -> tuple[KeyRecord, str]:
    """A key with an id that `file` does not have, and its text."""
    key_id = _free_id(file)
    text, salt, digest = fresh_text(key_id)
    return KeyRecord(id=key_id, salt=salt, digest=digest, created=now, **fields), text


def _free_id(file: KeyFile) -> str:
    while True:
        key_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(8))
        if key_id not in file.by_id:
            return key_id


def fresh_text(key_id: str) -> tuple[str, str, str]:
    """A key's text, and what is kept of it: salt and digest."""
    text, salt = f"corral-{key_id}-{secrets.token_hex(24)}", secrets.token_hex(16)
    # A slow hash would cost every request and win nothing: nobody guesses 192 random bits.
    return text, salt, hashlib.sha256((salt + text).encode()).hexdigest()


def changed(record: Record, **changes: Any) -> Record:
    """A checked copy."""
    return type(record).model_validate({**dict(record), **changes})


def shared_change(record: Record, limits: Limits, weight: float | None) -> Record:
    """What keys and groups have alike."""
    given = {name: getattr(limits, name) for name in limits.model_fields_set}
    together = record.limits.model_copy(update=given)
    return changed(record, limits=together, weight=record.weight if weight is None else weight)
