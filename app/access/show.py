"""What `corral keys` prints of keys and groups: never a salt, a digest, or a text that was shown before."""

from __future__ import annotations

from typing import Any

from app.access.key_records import GroupRecord, KeyFile, KeyRecord, moment_text
from app.access.limits import Limits
from app.show import aligned

UNITS = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "concurrent_requests": "at once",
    "bulk_items": "bulk items",
}
"""Of every limit."""
HOW_TO_USE = "This is shown only now. Use it with export CORRAL_API_KEY=..., or as a header, Authorization: Bearer ..."


def key_json(record: KeyRecord, now: float) -> dict[str, Any]:
    """previous_until: the text before the last rotation is taken until then."""
    shown = record.model_dump(mode="json", exclude={"salt", "digest", "previous"})
    earlier = record.previous
    return {**shown, "state": state(record, now), "previous_until": earlier.until if earlier else None}


def group_json(group: GroupRecord) -> dict[str, Any]:
    return group.model_dump(mode="json")


def state(record: KeyRecord, now: float) -> str:
    if record.revoked is not None:
        return "revoked"
    return "valid" if record.valid(now) else "expired"


def keys_table(file: KeyFile, now: float) -> str:
    rows = [["id", "name", "group", "scopes", "limits", "created", "expires", "state"]]
    for key in file.keys:
        expires = "never" if key.expires is None else moment_text(key.expires)
        rows.append([
            key.id, key.name, key.group or "-", ",".join(key.scopes), bounds(key), moment_text(key.created), expires,
            state(key, now),
        ])  # fmt: skip
    return aligned(rows)


def key_line(record: KeyRecord) -> str:
    """One key in words."""
    group = f" of the group {record.group}" if record.group else ""
    until = f"; expires {moment_text(record.expires)}" if record.expires is not None else ""
    return f"{record.id} ({record.name}){group}: {', '.join(record.scopes)}; limits {bounds(record)}{until}"


def group_line(group: GroupRecord) -> str:
    return f"{group.name}: limits {bounds(group)}"


def bounds(record: KeyRecord | GroupRecord) -> str:
    """Its limits, and its weight where that is not 1."""
    parts = _limits(record.limits) + ([f"weight {record.weight:g}"] if record.weight != 1 else [])
    return ", ".join(parts) or "none"


def _limits(limits: Limits) -> list[str]:
    return [f"{most} {UNITS[name]}" for name, most in limits if most is not None]
