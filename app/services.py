"""Services: what the routes need from outside, handed in by whoever composes the gateway."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ByteSize, Field

from app.access.estimate import Estimate
from app.access.guards import require_model
from app.access.items import ItemQuota, NoItemQuota
from app.relay import Upstream
from deployments.chat import ChatModel
from deployments.config import Section
from deployments.errors import BadRequest, Unavailable, UnknownModel
from deployments.request_log import note
from deployments.retrieval.service import PREFIX as RAG
from deployments.retrieval.service import NoRetrieval, Retrieval, collection_of
from deployments.retrieval.service import virtual_id as collection_id
from deployments.retrieval.virtual import RagModel
from deployments.status import Herd, ModelState, ModelStatus
from deployments.tribunal.config import tribunal_name, virtual_id
from deployments.tribunal.service import NoTribunals, Tribunals
from deployments.tribunal.virtual import TribunalModel

log = logging.getLogger("corral.gateway")
MEMBERS_TIMEOUT_S = 2
"""To learn whether a tribunal's members answer, and which collections there are."""


class BulkLimits(Section):
    """Bounds of POST /bulk, per process of the gateway."""

    max_items: int = Field(10_000, ge=1)
    max_in_flight: int = Field(16, ge=1, description="Bulk requests at once per base model, over all bulk calls.")
    in_flight: dict[str, int] = Field({}, description="The same of single base models.")
    max_body: ByteSize = Field(ByteSize(64 << 20), gt=0)
    priority: int = Field(10, ge=0, description="Scheduling priority; interactive requests have 0, lower runs first.")
    deadline_s: float = Field(3600, gt=0, description="What has no answer by then fails with deadline_exceeded.")


class Limits(Section):
    """Bounds of one request."""

    max_body: ByteSize = Field(ByteSize(8 << 20), gt=0)
    body_timeout_s: float = Field(30, gt=0, description="To receive a body, plus a second for each 64 KiB of it.")
    connect_timeout_s: float = Field(5, gt=0)
    idle_timeout_s: float = Field(600, gt=0, description="Longest silence of a model before its answer is given up.")
    alive_s: float = Field(
        15, gt=0, description="After so long a silence a stream of /v1/tribunal, or of a tribunal in "
        "/v1/chat/completions, gets a comment.",
    )  # fmt: skip
    bulk: BulkLimits = BulkLimits()
    max_upload: ByteSize = Field(ByteSize(256 << 20), gt=0, description="All files of one upload together.")


async def no_metrics() -> str:
    return ""


@dataclass(frozen=True)
class Services:
    """Clients and limits of one gateway process. A model is a served id, or a tribunal's or a collection's virtual one.

    models:  served id -> the model that chats under it (LoRA adapters too; embedding models have none).
    base_of: served id -> id of its base model, in the profile's order.
    upstream: where requests are passed on to; model m's own vLLM app is at /models/<base id>/.
    tribunals: those of the profile, each of which is also a virtual model.
    retrieval: collections of documents, each of which is also a virtual model.
    embedder: the id under which the documents' embedding model answers /v1/embeddings, if it does.
    item_quota: asked before a bulk call begins.
    estimate: of the tokens that bulk items may take.
    incoming: where uploaded files wait until they are read.
    metrics_sources: further metrics in Prometheus's text format.
    created: Unix time that /v1/models shows.
    """

    models: Mapping[str, ChatModel]
    base_of: Mapping[str, str]
    herd: Herd
    upstream: Upstream
    limits: Limits = field(default_factory=Limits)
    tribunals: Tribunals = field(default_factory=NoTribunals)
    retrieval: Retrieval = field(default_factory=NoRetrieval)
    embedder: str | None = None
    incoming: Path = Path("/nonexistent")
    item_quota: ItemQuota = field(default_factory=NoItemQuota)
    estimate: Estimate = field(default_factory=Estimate)
    metrics_sources: Callable[[], Awaitable[str]] = no_metrics
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def virtual_ids(self) -> tuple[str, ...]:
        """Ids under which tribunals answer."""
        return tuple(virtual_id(name) for name in self.tribunals.names)

    def tribunal(self, model: str) -> str | None:
        """Name of the tribunal behind an id, or None if it is an ordinary model's. Raises UnknownModel."""
        name = None if model in self.base_of else tribunal_name(model)
        if name is not None and name not in self.tribunals.names:
            raise self._unknown(model)
        return name

    def collection(self, model: str) -> str | None:
        """Name of the collection that an id stands for, whether there is one or not; None if it is another id."""
        return None if model in self.base_of else collection_of(model)

    def virtual(self, model: str) -> bool:
        """Whether an id is a tribunal's or a collection's. Raises UnknownModel."""
        return self.collection(model) is not None or self.tribunal(model) is not None

    def base(self, model: str) -> str:
        """The base model behind a served id; a virtual one is its own. Raises UnknownModel."""
        if self.collection(model) is not None:
            return model
        if (name := self.tribunal(model)) is not None:
            return virtual_id(name)
        if model not in self.base_of:
            raise self._unknown(model)
        return self.base_of[model]

    def _unknown(self, model: str) -> UnknownModel:
        return UnknownModel(model if len(model) <= 96 else f"{model[:96]}...", (*self.base_of, *self.virtual_ids))

    async def status(self, model: str) -> ModelStatus:
        """State of the base model behind a served id, or of a virtual model. Raises UnknownModel, UnknownCollection."""
        if (collection := self.collection(model)) is not None:
            return _collection_status(await self.retrieval.collection(collection))
        if model == self.embedder and model not in self.base_of:
            return ModelStatus(model, ModelState.READY)
        if (name := self.tribunal(model)) is not None:
            return await self._tribunal_status(name)
        base = self.base(model)
        missing = ModelStatus(base, ModelState.FAILED, reason="it is not deployed")
        return (await self.herd.statuses()).get(base, missing)

    async def virtual_statuses(self) -> list[ModelStatus]:
        """State of every tribunal, in the order of their names."""
        return await asyncio.gather(*(self._tribunal_status(name) for name in self.tribunals.names))

    async def collection_statuses(self) -> list[ModelStatus]:
        """State of every collection, by name; of none while nobody can say."""
        try:
            async with asyncio.timeout(MEMBERS_TIMEOUT_S):
                return [_collection_status(card) for card in await self.retrieval.collections()]
        except Exception as error:
            log.warning("which collections there are is not known: %r", error)
            return []

    async def _tribunal_status(self, name: str) -> ModelStatus:
        """Ready if it could sit now; starting as long as nobody can say so."""
        try:
            async with asyncio.timeout(MEMBERS_TIMEOUT_S):
                missing = await self.tribunals.missing(name)
        except Exception as error:
            log.warning("whether tribunal %s could sit is not known: %r", name, error)
            return ModelStatus(virtual_id(name), ModelState.STARTING)
        state = ModelState.FAILED if missing else ModelState.READY
        return ModelStatus(virtual_id(name), state, reason=missing)

    async def answering(self, model: str) -> str:
        """Id of the base model, if a request sent now is worth waiting for.

        Raises UnknownModel, Forbidden, Unavailable.

        A virtual model's own id: whether those answer that it asks is found out by itself.
        """
        if self.virtual(model):
            return self.base(model)
        require_model(model)
        status = await self.status(model)
        if not status.state.answers:
            because = f": {status.reason}" if status.reason else ""
            raise Unavailable(f"The model {model!r} is {status.state.value}{because}.", status.state.value)
        note(model=model)
        return status.id

    async def chat_model(self, model: str) -> ChatModel:
        """The model to chat with. Raises UnknownModel, Forbidden, Unavailable, BadRequest if it does not chat."""
        if (collection := self.collection(model)) is not None:
            note(model=RAG)
            return RagModel(self.retrieval, collection)
        if (name := self.tribunal(model)) is not None:
            note(model=virtual_id(name))
            return TribunalModel(self.tribunals, name)
        await self.answering(model)
        if model not in self.models:
            raise BadRequest(f"The model {model!r} does not chat; use /v1/embeddings.", "model")
        return self.models[model]


def _collection_status(card: Mapping[str, Any]) -> ModelStatus:
    state = ModelState.READY if card["ready"] else ModelState.FAILED
    return ModelStatus(collection_id(card["name"]), state, reason=card.get("reason"))
