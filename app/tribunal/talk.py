"""Following a tribunal over HTTP: its envelopes as they come, across broken connections; it ends if nobody waits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any

from app.talk import RefusedError, Talk, UnreachableError
from deployments.tribunal.events import EventType

Envelope = dict[str, Any]
"""deployments.tribunal.events.Event.envelope(), as it arrived."""

PATH = "/v1/tribunal"
RESUME_S = 30
"""How long a tribunal goes on without us."""
PAUSES_S = (0.5, 1.0, 1.5, 2.0, 2.5)
"""Before each attempt to come back; any news and they begin anew."""
SILENCE_S = 60
"""The service sends a sign of life much more often."""
STOP_S = 5


def follow(
    talk: Talk, ask: Mapping[str, Any], *, pause: Callable[[float], None] = time.sleep
) -> Generator[Envelope, None, None]:
    """Envelopes of one tribunal, the last of type result; closing the iterator earlier stops the tribunal.

    ask: the body of POST /v1/tribunal, without what is about streaming.
    Raises RefusedError or UnreachableError, also for a tribunal that ends with an error.
    """
    run = _Run(talk, pause)
    try:
        with closing(run.envelopes({**ask, "stream": True, "resume_s": RESUME_S})) as envelopes:
            for envelope in envelopes:
                if envelope["type"] == EventType.ERROR:
                    raise _failure(envelope["error"])
                yield envelope
    finally:
        run.stop()


class _Run:
    """One tribunal: its id once it is known, how far it was heard, and whether it is over."""

    def __init__(self, talk: Talk, pause: Callable[[float], None]) -> None:
        self._talk, self._pause = talk, pause
        self._id: str | None = None
        self._seq = 0
        self._over = False

    @property
    def _path(self) -> str:
        return f"{PATH}/{self._id}"

    def envelopes(self, body: Mapping[str, Any]) -> Generator[Envelope, None, None]:
        """Every envelope once, in order, across broken connections."""
        trouble = yield from self._listen("POST", PATH, body)  # what is refused is refused here
        failed = 0
        while not self._over:
            if self._id is None or failed == len(PAUSES_S):
                raise trouble
            self._pause(PAUSES_S[failed])
            heard = self._seq
            try:
                trouble = yield from self._listen("GET", f"{self._path}?after={self._seq}")
            except RefusedError as error:
                raise UnreachableError(f"{trouble}; it cannot be resumed: {error}") from error
            failed = failed + 1 if self._seq == heard else 0

    def _listen(self, method: str, path: str, body: Any = None) -> Generator[Envelope, None, UnreachableError]:
        """The new envelopes of one response; returns why there are no more."""
        try:
            with self._talk.opened(method, path, body, SILENCE_S) as response:
                for envelope in _envelopes(response.iter_text()):
                    if envelope["seq"] > self._seq:
                        self._id, self._seq = envelope["id"], envelope["seq"]
                        self._over = envelope["type"] in (EventType.RESULT, EventType.ERROR)
                        yield envelope
                    if self._over:
                        break
        except UnreachableError as error:
            return error
        return UnreachableError("the tribunal's stream ended without a result")

    def stop(self) -> None:
        """Stop the tribunal if it is not over. Where that cannot be said to it, it stops by itself after RESUME_S."""
        if self._id is None or self._over:
            return
        with suppress(RefusedError, UnreachableError), self._talk.opened("DELETE", self._path, silence_s=STOP_S):
            self._over = True


def _envelopes(chunks: Iterable[str]) -> Iterator[Envelope]:
    """The data of each whole server-sent event; what a break cut short is left out.

    What has no `id` is no event of the tribunal but the last word of the way to it, and raised.
    """
    fields: dict[str, str] = {}
    for line in _lines(chunks):
        name, _, value = line.partition(":")
        if name:
            fields[name] = value
        elif not line:
            if "data" in fields:
                envelope = json.loads(fields["data"])
                if "id" not in fields:
                    raise _failure(envelope["error"])
                yield envelope
            fields = {}


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """Whole lines. httpx's own also end at U+2028 and its like, which stand in models' texts."""
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split("\n")
        yield from (line.removesuffix("\r") for line in whole)


def _failure(error: Mapping[str, Any]) -> Exception:
    return (UnreachableError if error.get("type") == "server_error" else RefusedError)(str(error.get("message")))
