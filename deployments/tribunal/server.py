"""TribunalServer: the Serve deployment in which tribunals run. One replica, since it keeps what they told.

Imports neither vLLM nor torch: the models are asked over their DeploymentHandles.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from deployments.chat import ChatModel
from deployments.config import ModelSpec
from deployments.errors import UnknownModel
from deployments.herd import ServeHerd
from deployments.model_clients import ModelClients
from deployments.on_behalf import OnBehalf
from deployments.request_log import start_log
from deployments.serve_state import read_status
from deployments.status import Herd, ModelState, ModelStatus
from deployments.tracing import TRACES
from deployments.tracing_config import TracesConfig
from deployments.tribunal.admission import Admission
from deployments.tribunal.config import TribunalSpec, tribunal_name
from deployments.tribunal.runs import LocalTribunals
from deployments.tribunal.service import TribunalAsk
from deployments.tribunal.virtual import TribunalModel
from deployments.wordless import keep_words_out


class TribunalServer(OnBehalf):
    """Handle methods over LocalTribunals; they raise ServingError.

    specs: the profile's tribunals; models: its models, both as model_dump gives them; failures: models that could not
    be deployed -> why.
    """

    def __init__(
        self,
        specs: Mapping[str, Any],
        models: tuple[Mapping[str, Any], ...],
        failures: Mapping[str, str],
        traces: TracesConfig | None = None,
    ) -> None:
        start_log("tribunal")
        keep_words_out()
        TRACES.start(traces, "corral-tribunal")
        self._failures = {
            spec.deployed_id: failures[spec.id] for spec in map(ModelSpec.model_validate, models) if spec.id in failures
        }
        self._members = Members((), ServeHerd((), read=read_status))
        self._tribunals = LocalTribunals(self._admission(specs, models))
        self._members.tribunals = self._tribunals

    async def reconfigure(self, told: Mapping[str, Any]) -> None:
        """Serve calls it at the start and after `corral apply`, with other specs and models."""
        self._tribunals.admit_by(self._admission(told["specs"], told["models"]))

    def _admission(self, specs: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> Admission:
        members, found = self._members, tuple(ModelSpec.model_validate(model) for model in models)
        failed = {each.id: self._failures[each.deployed_id] for each in found if each.deployed_id in self._failures}
        members.take(found, ServeHerd(found, failed, read=read_status))
        tribunals = {name: TribunalSpec.model_validate(spec) for name, spec in specs.items()}
        return Admission(tribunals, members.known, members.find, members.status)

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

    async def metrics(self) -> str:
        return self._tribunals.telemetry.exposition()


class Members:
    """Who can sit in a tribunal: every model that chats, under each of its ids, and the tribunals themselves."""

    def __init__(self, specs: tuple[ModelSpec, ...], herd: Herd) -> None:
        self._kept = ModelClients()
        self.tribunals: LocalTribunals | None = None
        self.take(specs, herd)

    def take(self, specs: tuple[ModelSpec, ...], herd: Herd) -> None:
        """Have these models from now on."""
        chatting = [spec for spec in specs if spec.task == "generate"]
        self._herd = herd
        self._base = {served: spec.id for spec in chatting for served in spec.served_ids}
        self.known = {served: spec.context_tokens for spec in chatting for served in spec.served_ids}
        self._clients = self._kept.of(chatting)

    async def find(self, model: str) -> ChatModel:
        if (name := tribunal_name(model)) and self.tribunals is not None:
            return TribunalModel(self.tribunals, name)
        if model not in self._clients:
            raise UnknownModel(model, tuple(self.known))
        return self._clients[model]

    async def status(self, model: str) -> ModelStatus:
        missing = ModelStatus(model, ModelState.FAILED, reason="it is not deployed")
        return (await self._herd.statuses()).get(self._base.get(model, model), missing)
