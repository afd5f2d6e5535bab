"""One streamed answer, event by event. Pure: it is fed with bytes and the moments at which they came."""

from __future__ import annotations

import json
from typing import Any

from loadtests.client.exchange import LONGEST_REASON, Failure, failure, message_of
from loadtests.records import Fault

TEXT = b'"delta":{"content":"'
"""Events that begin their text so are counted without being parsed: the client shares the machine with the server."""
USAGE = b'"usage":{'
QUOTE = b'"'
LONGEST_LINE = 4 << 20
TOLD = ("content", "reasoning_content", "reasoning", "tool_calls")
"""Of a delta: anything that is not empty is output."""


class Reading:
    """Server-sent events of one chat completion. `times` are the moments of those that carried text.

    Events that came in one piece came at one moment, however they are cut.
    """

    __slots__ = ("_error", "_rest", "_said", "_strange", "done", "input_tokens", "output_tokens", "times")

    def __init__(self) -> None:
        self.times: list[float] = []
        self.done = False
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self._rest, self._said = b"", False
        self._error: str | None = None
        self._strange: str | None = None

    def feed(self, piece: bytes, at: float) -> None:
        """What came, and when. Never raises."""
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LONGEST_LINE:
            self._rest, self._strange = b"", self._strange or "a line of more than 4 MiB"
        for line in lines:
            text = line.find(TEXT)
            if text >= 0 and not line.startswith(QUOTE, text + len(TEXT)) and USAGE not in line:
                self.times.append(at)
            elif line:
                self._odd(line.strip(), at)

    @property
    def conclusive(self) -> bool:
        """Whether the events say how it went, whatever happened to the connection then."""
        return self.done or self._error is not None

    @property
    def failure(self) -> Failure | None:
        """What is wrong with the answer, once nothing more comes of it."""
        if self._error is not None:
            return failure(Fault.SERVER, self._error)
        if self._strange is not None:
            return failure(Fault.UNREADABLE, self._strange)
        if not self._said and not self.times and self._rest.strip():
            return failure(Fault.UNREADABLE, f"no server-sent events but {self._rest[:LONGEST_REASON]!r}")
        if not self.done:
            return failure(Fault.BROKEN_STREAM, f"the stream ended after {len(self.times)} events without [DONE]")
        if not self.times and not self.output_tokens:
            return failure(Fault.EMPTY, "the answer has no text")
        return None

    def _odd(self, line: bytes, at: float) -> None:
        """All but the plain text events: the first, the last ones, comments, what other servers write."""
        if not line.startswith(b"data:"):
            known = not line or line.startswith((b":", b"event:", b"id:", b"retry:"))
            if not known and not self._said and not self.times:
                self._strange = self._strange or f"no server-sent events but {line[:LONGEST_REASON]!r}"
            return
        self._said = True
        data = line[5:].strip()
        if data == b"[DONE]":
            self.done = True
            return
        try:
            self._event(json.loads(data), at)
        except (ValueError, RecursionError):
            self._strange = self._strange or f"an event that is no JSON: {data[:LONGEST_REASON]!r}"

    def _event(self, event: Any, at: float) -> None:
        if not isinstance(event, dict):
            self._strange = self._strange or f"an event that is no object: {str(event)[:LONGEST_REASON]}"
            return
        if event.get("error"):
            self._error = self._error or message_of(json.dumps(event).encode())
        if isinstance(usage := event.get("usage"), dict):
            self.input_tokens = count(usage.get("prompt_tokens"))
            self.output_tokens = count(usage.get("completion_tokens"))
        if _has_text(event.get("choices")):
            self.times.append(at)


def count(value: object) -> int | None:
    """A number of tokens, if it is one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _has_text(choices: object) -> bool:
    first = choices[0] if isinstance(choices, list) and choices else None
    delta = first.get("delta") if isinstance(first, dict) else None
    return isinstance(delta, dict) and any(delta.get(each) for each in TOLD)
