"""The clients of a profile's models, kept when it changes: work under way goes on with what is deployed then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deployments.config import ModelSpec
from deployments.model_client import ModelClient


class ModelClients:
    """One client for each served id."""

    def __init__(self) -> None:
        self._clients: dict[str, ModelClient] = {}

    def of(self, specs: Sequence[ModelSpec]) -> Mapping[str, ModelClient]:
        """Served id -> client, of these models from now on; those of models that are gone come to their end."""
        found = {served: self._client(spec, served) for spec in specs for served in spec.served_ids}
        for served, client in self._clients.items():
            if found.get(served) is not client:
                client.close()
        self._clients = dict(found)
        return found

    def _client(self, spec: ModelSpec, served: str) -> ModelClient:
        known = self._clients.get(served)
        if known is None or known.base != spec.id:
            return ModelClient(spec.id, served, spec.retry_after_s, spec.deployed_id)
        known.move(spec.deployed_id, spec.retry_after_s)
        return known
