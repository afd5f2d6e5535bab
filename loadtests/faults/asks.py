"""What the users of the load ask, and when an answer is complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MESSAGES = ({"role": "user", "content": "Hello! Who are you?"},)
TOKENS = 96
FEW_TOKENS = 8


class Way(StrEnum):
    """How an answer comes."""

    STREAM = "stream"
    WHOLE = "whole"
    GENERATE = "generate"
    BULK = "bulk"
    LIST = "list"


@dataclass(frozen=True)
class Ask:
    """One kind of request; `name` is its row in the table, `part` the model that answers it, or the gateway."""

    name: str
    part: str
    way: Way
    path: str
    body: Mapping[str, Any] | None = None
    tokens: int = 0

    def fault_of(self, text: str) -> str:
        """What is wrong with the body of a 200; empty if it is complete."""
        try:
            return CHECKS[self.way](self, text)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return f"incomplete: {error!r}"


def stream(model: str, tokens: int = TOKENS) -> Ask:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    return Ask(f"{model} streamed", model, Way.STREAM, "/v1/chat/completions", _chat(model, tokens) | options, tokens)


def whole(model: str, tokens: int = TOKENS) -> Ask:
    return Ask(f"{model} whole", model, Way.WHOLE, "/v1/chat/completions", _chat(model, tokens), tokens)


def generate(model: str) -> Ask:
    body = {"model": model, "messages": list(MESSAGES), "max_tokens": TOKENS, "temperature": 0}
    return Ask(f"{model} generated", model, Way.GENERATE, "/generate", body)


def bulk(model: str, items: int = 2) -> Ask:
    body = {"model": model, "items": [{"prompt": "Hello!"}] * items, "defaults": {"max_tokens": FEW_TOKENS}}
    return Ask("bulk", "gateway", Way.BULK, "/bulk", body, items)


def tribunal(name: str, tokens: int) -> Ask:
    return Ask("tribunal", "gateway", Way.WHOLE, "/v1/chat/completions", _plain(name, tokens))


def models() -> Ask:
    return Ask("/v1/models", "gateway", Way.LIST, "/v1/models")


def _plain(model: str, tokens: int) -> dict[str, Any]:
    return {"model": model, "messages": list(MESSAGES), "max_tokens": tokens, "temperature": 0}


def _chat(model: str, tokens: int) -> dict[str, Any]:
    return _plain(model, tokens) | {"ignore_eos": True}


def _stream_fault(ask: Ask, text: str) -> str:
    """A stream has to begin once, give its tokens, say why it ends, and end with [DONE]."""
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        told = [event for event in events if '"error"' in event[:10]]
        return "broken stream with an error event" if told else "broken stream without an error event"
    chunks = [json.loads(event) for event in events[:-1]]
    if any("error" in chunk for chunk in chunks):
        return "an error event, and then [DONE] as if complete"
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    if sum(choice["delta"].get("role") is not None for choice in choices) != 1:
        return "incomplete: it began more or less than once"
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    usage = next(chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage"))
    return "" if (reasons, usage) == (["length"], ask.tokens) else f"incomplete: {reasons}, {usage} tokens"


def _whole_fault(ask: Ask, text: str) -> str:
    answer = json.loads(text)
    reason, usage = answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]
    right = reason == "length" and usage == ask.tokens if ask.tokens else reason in ("stop", "length")
    return "" if right else f"incomplete: {reason}, {usage} tokens"


def _generate_fault(ask: Ask, text: str) -> str:
    answer = json.loads(text)
    reason, usage = answer["finish_reason"], answer["usage"]["completion_tokens"]
    return "" if answer["text"] and reason in ("stop", "length") else f"incomplete: {reason}, {usage} tokens"


def _bulk_fault(ask: Ask, text: str) -> str:
    summary = json.loads(text)["summary"]
    if summary["succeeded"] == ask.tokens:
        return ""
    codes = sorted({str(each.get("error", {}).get("code")) for each in json.loads(text)["items"]} - {"None"})
    return f"bulk items failed: {', '.join(codes)}"


def _list_fault(ask: Ask, text: str) -> str:
    return "" if json.loads(text)["data"] else "incomplete: no models"


CHECKS = {
    Way.STREAM: _stream_fault, Way.WHOLE: _whole_fault, Way.GENERATE: _generate_fault, Way.BULK: _bulk_fault,
    Way.LIST: _list_fault,
}  # fmt: skip
