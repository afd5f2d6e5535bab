"""Who answers from documents: every model of the profile that chats, under each of its ids, and the tribunals."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.chat import ChatModel
from deployments.config import ModelSpec
from deployments.errors import UnknownModel
from deployments.model_clients import ModelClients
from deployments.tribunal.config import tribunal_name, virtual_id
from deployments.tribunal.service import Tribunals
from deployments.tribunal.virtual import TribunalModel


class ProfileModels:
    """Implements sources.AnsweringModels over DeploymentHandles."""

    def __init__(self, specs: Sequence[ModelSpec], tribunals: Tribunals) -> None:
        self._kept = ModelClients()
        self.take(specs, tribunals)

    def take(self, specs: Sequence[ModelSpec], tribunals: Tribunals) -> None:
        """Have these from now on."""
        chatting = [spec for spec in specs if spec.task == "generate"]
        self._context = {served: spec.context_tokens for spec in chatting for served in spec.served_ids}
        self._clients = self._kept.of(chatting)
        self._tribunals = tribunals

    async def find(self, model: str) -> tuple[ChatModel, int | None]:
        """A tribunal's context is the smallest of all models', since any of them may sit in it. Raises UnknownModel."""
        if model in self._clients:
            return self._clients[model], self._context[model]
        name = tribunal_name(model)
        if name in self._tribunals.names:
            return TribunalModel(self._tribunals, name), min(self._context.values())
        known = (*self._clients, *map(virtual_id, self._tribunals.names))
        raise UnknownModel(model if len(model) <= 96 else f"{model[:96]}...", known)
