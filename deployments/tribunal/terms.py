"""What a sitting is held on, and what it asks: the question, the spec, the models; one call and its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from deployments.chat import ChatModel
from deployments.tribunal.budget import TokenRates
from deployments.tribunal.config import Member, TribunalSpec
from deployments.tribunal.events import EventType
from deployments.tribunal.result import Kind
from deployments.tribunal.wording import Messages, Prompt, Wording

T = TypeVar("T")
Emit = Callable[[EventType, dict[str, Any]], None]
FindModel = Callable[[str], Awaitable[ChatModel]]
"""Served id -> the model. Raises ServingError where it does not answer."""


@dataclass(frozen=True)
class Said(Generic[T]):
    """What a member answered, read."""

    value: T
    member: Member
    step: int
    finish_reason: str


@dataclass(frozen=True)
class Call(Generic[T]):
    """A prompt to a member. `as_name`: how the trace calls it, where one member is asked several times."""

    member: Member
    prompt: Prompt[T]
    kind: Kind
    max_tokens: int
    as_name: str | None = None

    @property
    def name(self) -> str:
        return self.as_name or self.member.label


@dataclass(frozen=True)
class Terms:
    """What a sitting is held on: the question, the spec, and where models and time come from."""

    question: Messages
    spec: TribunalSpec
    wording: Wording
    models: FindModel
    rates: TokenRates
    seed: int | None = None
    max_tokens: int | None = None
    priority: int = 0
    deltas: bool = False
    contexts: Mapping[str, int] = field(default_factory=dict)
    """Served id -> longest prompt plus answer, in tokens, where it is known."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
