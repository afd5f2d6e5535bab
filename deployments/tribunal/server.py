"""TribunalServer: the Serve deployment in which tribunals run. One replica, since it keeps what they told.

Imports neither vLLM nor torch: the models are asked over their DeploymentHandles.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from deployments.chat import ChatModel
from deployments.config import ModelSpec
from deployments.errors import UnknownModel
from deployments.herd import ServeHerd
from deployments.model_client import ModelClient
from deployments.on_behalf import OnBehalf
from deployments.serve_state import read_status
from deployments.status import Herd, ModelState, ModelStatus
from deployments.tribunal.admission import Admission
from deployments.tribunal.config import TribunalSpec, tribunal_name
from deployments.tribunal.runs import LocalTribunals
from deployments.tribunal.service import TribunalAsk
from deployments.tribunal.virtual import TribunalModel


class TribunalServer(OnBehalf):
    """Handle methods over LocalTribunals; they raise ServingError.

    specs: the profile's tribunals; models: its models, both as model_dump gives them; failures: models that could not
    be deployed -> why.
    """

    def __init__(
        self, specs: Mapping[str, Any], models: tuple[Mapping[str, Any], ...], failures: Mapping[str, str]
    ) -> None:
        found = tuple(ModelSpec.model_validate(model) for model in models)
        herd = ServeHerd(found, failures, read=read_status)
        members = Members(found, herd)
        tribunals = {name: TribunalSpec.model_validate(spec) for name, spec in specs.items()}
        self._tribunals = LocalTribunals(Admission(tribunals, members.known, members.find, members.status))
        members.tribunals = self._tribunals

    async def run(self, ask: TribunalAsk) -> dict[str, Any]:
        return await self._tribunals.run(ask)

    async def events(self, ask: TribunalAsk) -> AsyncIterator[dict[str, Any]]:
        async with aclosing(self._tribunals.events(ask)) as told:
            async for envelope in told:
                yield envelope

    async def resume(self, run_id: str, after: int) -> AsyncIterator[dict[str, Any]]:
        async with aclosing(self._tribunals.resume(run_id, after)) as told:
            async for envelope in told:
                yield envelope

    async def cancel(self, run_id: str) -> None:
        await self._tribunals.cancel(run_id)

    async def missing(self, name: str) -> str | None:
        return await self._tribunals.missing(name)


class Members:
    """Who can sit in a tribunal: every model that chats, under each of its ids, and the tribunals themselves."""

    def __init__(self, specs: tuple[ModelSpec, ...], herd: Herd) -> None:
        self._herd = herd
        chatting = [(served, spec) for spec in specs if spec.task == "generate" for served in spec.served_ids]
        self._base = {served: spec.id for served, spec in chatting}
        self.known = {served: spec.context_tokens for served, spec in chatting}
        self._clients = {served: ModelClient(spec.id, served, spec.retry_after_s) for served, spec in chatting}
        self.tribunals: LocalTribunals | None = None

    async def find(self, model: str) -> ChatModel:
        if (name := tribunal_name(model)) and self.tribunals is not None:
            return TribunalModel(self.tribunals, name)
        if model not in self._clients:
            raise UnknownModel(model, tuple(self.known))
        return self._clients[model]

    async def status(self, model: str) -> ModelStatus:
        missing = ModelStatus(model, ModelState.FAILED, reason="it is not deployed")
        return (await self._herd.statuses()).get(self._base[model], missing)
