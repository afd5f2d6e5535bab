"""Watch: looks at a service again and again; what is wrong for a while is told, and the last figures stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from app.launch import NotRunningError
from app.monitoring.figures import Figures, figures
from app.monitoring.places import Place
from app.monitoring.scrape import Scrape
from app.talk import RefusedError, UnreachableError

TODAY = "/v1/usage?by=key&since={day}"


@dataclass(frozen=True)
class KeyUsage:
    """What a key has taken today (UTC). Without a name it is not in the keys' file any more."""

    key: str
    name: str
    requests: int
    refused: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Look:
    """One refresh. at: Unix time. trouble: why nothing new is known, since which time, and then figures are old."""

    at: float
    name: str
    place: Place | None = None
    figures: Figures | None = None
    keys: tuple[KeyUsage, ...] = ()
    trouble: str | None = None
    since: float | None = None

    def to_json(self) -> dict[str, Any]:
        """With null for what is not known; old figures are not told again."""
        known = None if self.trouble or self.figures is None else self.figures
        shown = {**(known.to_json() if known else asdict(Figures(None, ()))), "models": _models(known)}
        return {
            "at": round(self.at, 3), "name": self.name, "url": self.place.url if self.place else None,
            "phase": self.place.phase if self.place else None, "trouble": self.trouble, **shown,
            "keys": [asdict(key) for key in self.keys],
        }  # fmt: skip


def _models(known: Figures | None) -> list[dict[str, Any]]:
    return [asdict(model) for model in known.models] if known else []


class Watch:
    """find: where the service is now. clock: Unix time. local: seconds of a clock that nobody moves."""

    def __init__(
        self, name: str, find: Callable[[], Place], clock: Callable[[], float], local: Callable[[], float]
    ) -> None:
        self._name, self._find, self._clock, self._local = name, find, clock, local
        self._client: httpx.Client | None = None
        self._place: Place | None = None
        self._before: Scrape | None = None
        self._last: Look | None = None

    def look(self) -> Look:
        """Raises RefusedError where the service does not tell, for want of a key that may ask."""
        try:
            self._last = self._looked()
        except (NotRunningError, UnreachableError, httpx.HTTPError, ValueError, OSError) as error:
            self._last = self._without(str(error) or type(error).__name__)
        return self._last

    def close(self) -> None:
        if self._client:
            self._client.close()
            self._client = None

    def _looked(self) -> Look:
        place = self._find()
        client = self._client_of(place)
        text = _answer(client, "/metrics").text
        now = Scrape.of(text, self._local())
        told = figures(self._before, now)
        self._before = now
        return Look(self._clock(), self._name, place, told, self._keys(client))

    def _client_of(self, place: Place) -> httpx.Client:
        """The same connections for as long as the service stays where it is; counters elsewhere are others."""
        if self._client is None or self._place is None or place.url != self._place.url:
            self.close()
            self._client, self._before = httpx.Client(**place.reach), None
        self._place = place
        return self._client

    def _keys(self, client: httpx.Client) -> tuple[KeyUsage, ...]:
        """Those that this key may see, who took most first; none where no keys are asked for."""
        day = datetime.fromtimestamp(self._clock(), UTC).date()
        rows = _answer(client, TODAY.format(day=day)).json()["data"]
        found = [_key_usage(row) for row in rows if row["key"]]
        return tuple(sorted(found, key=lambda each: (-each.tokens, each.key)))

    def _without(self, trouble: str) -> Look:
        self.close()
        last = self._last
        since = last.since if last and last.since else self._clock()
        known = (last.place, last.figures, last.keys) if last else (None, None, ())
        shown = "".join(sign for sign in " ".join(trouble.split()) if sign.isprintable())
        return Look(self._clock(), self._name, *known, trouble=shown, since=since)


def _answer(client: httpx.Client, path: str) -> httpx.Response:
    response = client.get(path)
    if response.is_success:
        return response
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"{path}: HTTP {response.status_code}"
    if response.status_code in (401, 403):
        raise RefusedError(message)
    raise UnreachableError(message)


def _key_usage(row: dict[str, Any]) -> KeyUsage:
    counts = (int(row[count]) for count in ("requests", "refused", "prompt_tokens", "completion_tokens"))
    return KeyUsage(str(row["key"]), str(row.get("name", "")), *counts)
