"""`corral keys`: parse, call, print. What it does lies in key_store.py, what it prints in show.py."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

import typer

from app.access.key_records import KeyRecord, moment_text
from app.access.key_store import KeyStore
from app.access.limits import Limits
from app.access.scopes import ALLOWS, DEFAULT_SCOPES, EXAMPLE, parse_scopes
from app.access.show import HOW_TO_USE, group_json, group_line, key_json, key_line, keys_table
from app.options import Json, Profile
from app.show import print_json

T = TypeVar("T")
TAKEN_UP_S = 5
"""Running services look at the file that often."""
NEVER = "never"
FORMS = "a duration such as 12h or 90d (s, m, h, d, w), or a day such as 2027-01-31, which it includes (UTC)"
LONGEST = timedelta(days=36_525)
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)

keys = typer.Typer(
    no_args_is_help=True, help="Make, list and revoke the keys of the service.",
    epilog="\n\n".join(["Scopes, which say what a key may do:", *(f"{kind}: {text}" for kind, text in ALLOWS.items())]),
)  # fmt: skip

Which = Annotated[str, typer.Argument(metavar="ID", help="The id, its beginning, or the name if only one has it.")]
Scopes = Annotated[str | None, typer.Option("--scopes", help=f"With commas, for example {EXAMPLE}.")]
Expires = Annotated[str | None, typer.Option("--expires", help="90d, 12h, 2027-01-31, or never.")]
Requests = Annotated[int | None, typer.Option("--requests-per-minute", min=0, help="0: no limit.")]
Tokens = Annotated[
    int | None, typer.Option("--tokens-per-minute", min=0, help="Of prompts and answers together; 0: no limit.")
]
AtOnce = Annotated[int | None, typer.Option("--concurrent-requests", min=0, help="0: no limit.")]
BulkItems = Annotated[
    int | None, typer.Option("--bulk-items", min=0, help="Of bulk calls that are not answered yet; 0: no limit.")
]
Weight = Annotated[float | None, typer.Option("--weight", help="Its share where there is not enough for all.")]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, or what for.")],
    group: Annotated[str, typer.Option("--group", "-g", help="Keys of a group share its limits.")] = "",
    scopes: Scopes = None, expires: Expires = None, requests_per_minute: Requests = None,
    tokens_per_minute: Tokens = None, concurrent_requests: AtOnce = None, bulk_items: BulkItems = None,
    weight: Weight = None, profile: Profile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Make a key; it is shown once, now."""
    words = DEFAULT_SCOPES if scopes is None else _option("--scopes", parse_scopes, scopes)
    until = None if expires is None else _option("--expires", _expires_at, expires)
    limits = _limits(requests_per_minute, tokens_per_minute, concurrent_requests, bulk_items)
    store = _store(profile)
    is_new = bool(group) and all(each.name != group for each in store.load().groups)
    record, text = store.create(name, group, words, limits, 1 if weight is None else weight, until)
    notes = [f"The group {group} is new and has no limits; `corral keys group {group}` sets some."] if is_new else []
    _show_new(record, text, notes, as_json=as_json, group_created=is_new)


@keys.command(name="list")
def list_keys(profile: Profile = None, as_json: Json = False) -> None:
    """All keys, and whether they are taken; JSON lists the groups, too."""
    file = _store(profile).load()
    now = time.time()
    if as_json:
        print_json({
            "keys": [key_json(key, now) for key in file.keys], "groups": [group_json(group) for group in file.groups],
        })  # fmt: skip
    elif file.keys:
        typer.echo(keys_table(file, now), nl=False)
    else:
        typer.echo("There are no keys yet; `corral keys create NAME` makes one.")


@keys.command()
def rotate(
    key: Which,
    grace: Annotated[str | None, typer.Option("--grace", help="Take the old text so long, too, e.g. 10m.")] = None,
    profile: Profile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Give a key another text, which is shown once, now; the old one ends."""
    grace_s = 0 if grace is None else _option("--grace", duration_s, grace)
    record, text = _store(profile).rotate(key, grace_s)
    earlier = record.previous
    ends = f"is taken until {moment_text(earlier.until)}" if earlier else f"ends within {TAKEN_UP_S} seconds"
    _show_new(record, text, [f"The old text {ends}."], as_json=as_json)


@keys.command()
def revoke(key: Which, profile: Profile = None, as_json: Json = False) -> None:
    """End a key, for good."""
    record = _store(profile).revoke(key)
    if as_json:
        print_json(key_json(record, time.time()))
    else:
        typer.echo(
            f"{record.id} ({record.name}) is revoked; running services stop to take it within {TAKEN_UP_S} seconds."
        )


@keys.command()
def remove(key: Which, profile: Profile = None, as_json: Json = False) -> None:
    """Forget a revoked key."""
    record = _store(profile).remove(key)
    if as_json:
        print_json({"id": record.id, "name": record.name, "removed": True})
    else:
        typer.echo(f"{record.id} ({record.name}) is forgotten.")


@keys.command()
def group(
    name: Annotated[str, typer.Argument(help="Made if there is none yet.")],
    requests_per_minute: Requests = None, tokens_per_minute: Tokens = None, concurrent_requests: AtOnce = None,
    bulk_items: BulkItems = None, weight: Weight = None, profile: Profile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Make a group or change what is given of it: what all its keys may ask for together."""
    limits = _limits(requests_per_minute, tokens_per_minute, concurrent_requests, bulk_items)
    record = _store(profile).set_group(name, limits, weight)
    if as_json:
        print_json(group_json(record))
    else:
        typer.echo(group_line(record))


@keys.command()
def update(
    key: Which, scopes: Scopes = None, expires: Expires = None, requests_per_minute: Requests = None,
    tokens_per_minute: Tokens = None, concurrent_requests: AtOnce = None, bulk_items: BulkItems = None,
    weight: Weight = None, profile: Profile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Change what is given of a key; its text stays."""
    limits = _limits(requests_per_minute, tokens_per_minute, concurrent_requests, bulk_items)
    if not limits.model_fields_set and all(each is None for each in (scopes, expires, weight)):
        raise typer.BadParameter("say what to change: --scopes, --expires, --weight or a limit")
    until: float | Literal["keep"] | None = "keep"
    if expires is not None:
        until = _option("--expires", _expires_at, expires)
    words = None if scopes is None else _option("--scopes", parse_scopes, scopes)
    record = _store(profile).update(key, scopes=words, limits=limits, weight=weight, expires=until)
    if as_json:
        print_json(key_json(record, time.time()))
    else:
        typer.echo(key_line(record))


def expires_at(text: str, now: float) -> float | None:
    """When a key ends (Unix time), from one of FORMS or `never`. Raises ValueError."""
    text = text.strip()
    if text == NEVER:
        return None
    if not _DAY.fullmatch(text):
        return now + duration_s(text, f"{FORMS}, or {NEVER}")
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no day of the calendar; write one such as 2027-01-31") from None
    until = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + _UNITS_S["d"]
    if until <= now:
        raise ValueError(f"{text!r} is over; give a day to come")
    _require_bounded(until - now, text)
    return until


def duration_s(text: str, forms: str = "a duration such as 90s, 10m, 12h, 7d or 2w") -> float:
    """Seconds, at least one. Raises ValueError, which names what would do."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text[:64]!r} is not {forms}")
    found_s = int(match[1]) * _UNITS_S[match[2]]
    if not found_s:
        raise ValueError(f"{text!r} is no time at all; give {forms}")
    _require_bounded(found_s, text)
    return found_s


def _require_bounded(length_s: float, text: str) -> None:
    if length_s > LONGEST.total_seconds():
        raise ValueError(f"{text!r} is more than a hundred years off")


def _expires_at(text: str) -> float | None:
    return expires_at(text, time.time())


def _option(name: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=name) from None


def _limits(
    requests_per_minute: int | None, tokens_per_minute: int | None, concurrent_requests: int | None,
    bulk_items: int | None,
) -> Limits:  # fmt: skip
    """Only what was typed is set; 0 lifts a limit."""
    typed = {
        "requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute,
        "concurrent_requests": concurrent_requests, "bulk_items": bulk_items,
    }  # fmt: skip
    return Limits(**{name: most or None for name, most in typed.items() if most is not None})


def _store(profile: str | None) -> KeyStore:
    from app.access.place import keys_file
    from app.settings import load_settings

    return KeyStore(keys_file(load_settings(profile)))


def _show_new(record: KeyRecord, text: str, notes: list[str], *, as_json: bool, **more: Any) -> None:
    """The key alone on the last line, so that `tail -n 1` takes it."""
    if as_json:
        print_json({**key_json(record, time.time()), **more, "key": text})
    else:
        typer.echo("\n".join([key_line(record), *notes, HOW_TO_USE, text]))
