"""TribunalClient: Tribunals over the DeploymentHandle of TribunalServer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from deployments.handle_client import HandleClient
from deployments.tribunal.config import TribunalSpec, tribunal_names
from deployments.tribunal.service import TribunalAsk


class TribunalClient:
    """Implements service.Tribunals. The handle is resolved at the first call.

    specs: the profile's tribunals. deployment: name of the application and of its deployment.
    """

    def __init__(self, specs: Mapping[str, TribunalSpec], deployment: str) -> None:
        self._specs = specs
        self._calls = HandleClient(deployment, "The tribunal", "No tribunal is deployed here.")

    @property
    def names(self) -> tuple[str, ...]:
        return tribunal_names(self._specs)

    def spec(self, name: str) -> Mapping[str, Any]:
        return self._specs[name].model_dump(mode="json")

    async def run(self, ask: TribunalAsk) -> dict[str, Any]:
        found: dict[str, Any] = await self._calls.called("run", ask)
        return found

    def events(self, ask: TribunalAsk) -> AsyncIterator[dict[str, Any]]:
        return self._calls.streamed("events", ask)

    def resume(self, run_id: str, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        return self._calls.streamed("resume", run_id, after)

    async def cancel(self, run_id: str) -> None:
        await self._calls.called("cancel", run_id)

    async def missing(self, name: str) -> str | None:
        found: str | None = await self._calls.called("missing", name)
        return found

    async def metrics(self) -> str:
        """In Prometheus's text format."""
        return str(await self._calls.called("metrics"))
