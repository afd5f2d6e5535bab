"""Streamed chat answers on Corral's own way to vLLM, and on vLLM's: the same events."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.serve.service import RunningService

pytestmark = pytest.mark.serve

CHAT = "/v1/chat/completions"
ASKED = {
    "model": "pocket-8b",
    "messages": [{"role": "user", "content": "Hello! Who are you?"}],
    "temperature": 0,
    "max_tokens": 48,
    "stream": True,
    "stream_options": {"include_usage": True},
}
HARD = 'say "hi"\n\ttwice \\ with é, 🙂'
CASES: dict[str, dict[str, Any]] = {
    "an answer to its end": {},
    "cut off": {"max_tokens": 7},
    "one token": {"max_tokens": 1},
    "ended by a stop string": {"stop": ["question"]},
    "text that JSON escapes": {
        "structured_outputs": {"regex": re.escape(HARD).replace("\\\n", r"\n").replace("\\\t", r"\t")}
    },
    "special tokens as text": {"skip_special_tokens": False, "ignore_eos": True},
    "without usage": {"stream_options": None},
    "a schema": {"response_format": {"type": "json_object"}},
}
ORIGIN = {"origin": "http://elsewhere.example"}
"""A browser's header: vLLM's own handlers answer it, with its CORS headers."""


def stream(service: RunningService, body: dict[str, Any], headers: dict[str, str] | None = None) -> list[str]:
    """The events of a stream, without what is new in every request."""
    body = {key: value for key, value in body.items() if value is not None}
    answer = httpx.post(service.url + CHAT, json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert ("access-control-allow-origin" in answer.headers) == bool(headers)
    text = re.sub(r'"created":\d+', '"created":0', re.sub(r'"id":"chatcmpl-[^"]+"', '"id":""', answer.text))
    assert text.endswith("\n\ndata: [DONE]\n\n")
    return text.split("\n\n")[:-2]


NO_TEXT, NO_DELTA = (
    '"delta":{"content":""},"logprobs":null,"finish_reason":"',
    '"delta":{},"logprobs":null,"finish_reason":"',
)


@dataclass(frozen=True)
class Stream:
    """A stream as it can be compared: an engine that is faster than its reader tells several tokens at once, so where
    the text is cut is chance.

    ends: the events that are not only text, with their text left out. middle: the kinds of those that are.
    """

    text: str
    ends: tuple[str, ...]
    middle: frozenset[str]

    @classmethod
    def of(cls, events: list[str]) -> Stream:
        told = [json.loads(event.removeprefix("data: ")) for event in events]
        text = "".join(choice["delta"].get("content") or "" for each in told for choice in each.get("choices", []))
        kinds = [re.sub(r'"content":"(?:[^"\\]|\\.)*"', '"content":""', event) for event in events]
        # The last text comes alone, or with the end where the reader was slow.
        ends = tuple(kind.replace(NO_TEXT, NO_DELTA) for kind in kinds if not is_middle(kind))
        return cls(text, ends, frozenset(kind for kind in kinds if is_middle(kind)))

    def check_same(self, other: Stream) -> None:
        assert self.text == other.text
        assert self.ends == other.ends
        assert len(self.middle | other.middle) <= 1


def is_middle(event: str) -> bool:
    return '"delta":{"content":' in event and '"finish_reason":null' in event


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_stream_is_vllms_to_the_byte(service: RunningService, case: dict[str, Any]) -> None:
    ours = Stream.of(stream(service, {**ASKED, **case}))
    assert ours.text
    ours.check_same(Stream.of(stream(service, {**ASKED, **case}, ORIGIN)))


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.get("stream_options", True)])
def test_the_answer_is_that_of_vllms_own_generator(service: RunningService, case: dict[str, Any]) -> None:
    told = {"include_usage": True, "continuous_usage_stats": True}  # usage in every event: never written by Corral
    ours = stream(service, {**ASKED, **case})
    theirs = stream(service, {**ASKED, **case, "stream_options": told})
    assert ours[-1] == theirs[-1]
    without = [re.sub(r',"usage":\{[^}]*\}', "", event) for event in theirs[:-1]]
    Stream.of(ours[:-1]).check_same(Stream.of(without))


def test_a_text_that_json_escapes_comes_whole(service: RunningService) -> None:
    assert Stream.of(stream(service, {**ASKED, **CASES["text that JSON escapes"]})).text == HARD


@pytest.mark.parametrize(
    ("field", "status", "param"),
    [({"max_tokens": 0}, 400, "max_tokens"), ({"max_tokens": 99999}, 400, "max_tokens"), ({"seed": "x"}, 400, "seed")],
)
def test_what_is_refused_is_worded_as_ever(
    service: RunningService, field: dict[str, Any], status: int, param: str
) -> None:
    answers = [httpx.post(service.url + CHAT, json={**ASKED, **field}, headers=headers) for headers in (None, ORIGIN)]
    assert [answer.status_code for answer in answers] == [status, status]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["error"]["param"] == param
