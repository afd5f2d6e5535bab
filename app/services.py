"""Services: what the routes need from outside, handed in by whoever composes the gateway."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from pydantic import ByteSize, Field

from app.relay import Upstream
from deployments.chat import ChatModel
from deployments.config import Section
from deployments.errors import BadRequest, Unavailable, UnknownModel
from deployments.status import Herd, ModelState, ModelStatus


class BulkLimits(Section):
    """Bounds of POST /bulk, per process of the gateway."""

    max_items: int = Field(10_000, ge=1)
    max_in_flight: int = Field(16, ge=1, description="Bulk requests at once per base model, over all bulk calls.")
    max_body: ByteSize = Field(ByteSize(64 << 20), gt=0)
    priority: int = Field(10, ge=0, description="Scheduling priority; interactive requests have 0, lower runs first.")
    deadline_s: float = Field(3600, gt=0, description="What has no answer by then fails with deadline_exceeded.")


class Limits(Section):
    """Bounds of one request."""

    max_body: ByteSize = Field(ByteSize(8 << 20), gt=0)
    body_timeout_s: float = Field(30, gt=0, description="To receive a body, plus a second for each 64 KiB of it.")
    connect_timeout_s: float = Field(5, gt=0)
    idle_timeout_s: float = Field(600, gt=0, description="Longest silence of a model before its answer is given up.")
    bulk: BulkLimits = BulkLimits()


async def no_metrics() -> str:
    return ""


@dataclass(frozen=True)
class Services:
    """Clients and limits of one gateway process.

    models:  served id -> the model that chats under it (LoRA adapters too; embedding models have none).
    base_of: served id -> id of its base model, in the profile's order.
    upstream: where requests are passed on to; model m's own vLLM app is at /models/<base id>/.
    metrics_sources: further metrics in Prometheus's text format.
    created: Unix time that /v1/models shows.
    """

    models: Mapping[str, ChatModel]
    base_of: Mapping[str, str]
    herd: Herd
    upstream: Upstream
    limits: Limits = field(default_factory=Limits)
    metrics_sources: Callable[[], Awaitable[str]] = no_metrics
    created: int = field(default_factory=lambda: int(time.time()))

    def base(self, model: str) -> str:
        """The base model behind a served id. Raises UnknownModel."""
        if model not in self.base_of:
            raise UnknownModel(model if len(model) <= 96 else f"{model[:96]}...", tuple(self.base_of))
        return self.base_of[model]

    async def status(self, model: str) -> ModelStatus:
        """State of the base model behind a served id. Raises UnknownModel."""
        base = self.base(model)
        missing = ModelStatus(base, ModelState.FAILED, reason="it is not deployed")
        return (await self.herd.statuses()).get(base, missing)

    async def answering(self, model: str) -> str:
        """Id of the base model, if a request sent now is worth waiting for. Raises UnknownModel, Unavailable."""
        status = await self.status(model)
        if not status.state.answers:
            because = f": {status.reason}" if status.reason else ""
            raise Unavailable(f"The model {model!r} is {status.state.value}{because}.", status.state.value)
        return status.id

    async def chat_model(self, model: str) -> ChatModel:
        """The model to chat with. Raises UnknownModel, Unavailable, BadRequest if it does not chat."""
        await self.answering(model)
        if model not in self.models:
            raise BadRequest(f"The model {model!r} does not chat; use /v1/embeddings.", "model")
        return self.models[model]
