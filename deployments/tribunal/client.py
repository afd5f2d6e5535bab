"""TribunalClient: Tribunals over the DeploymentHandle of TribunalServer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.errors import Unavailable
from deployments.handle_errors import translated
from deployments.tribunal.config import TribunalSpec, tribunal_names
from deployments.tribunal.service import TribunalAsk

NAME = "The tribunal"


class TribunalClient:
    """Implements service.Tribunals. The handle is resolved at the first call.

    specs: the profile's tribunals. deployment: name of the application and of its deployment.
    """

    def __init__(self, specs: Mapping[str, TribunalSpec], deployment: str) -> None:
        self._specs, self._deployment = specs, deployment
        self._handle: DeploymentHandle[Any] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tribunal_names(self._specs)

    def spec(self, name: str) -> Mapping[str, Any]:
        return self._specs[name].model_dump(mode="json")

    async def run(self, ask: TribunalAsk) -> dict[str, Any]:
        found: dict[str, Any] = await self._called("run", ask)
        return found

    def events(self, ask: TribunalAsk) -> AsyncIterator[dict[str, Any]]:
        return self._streamed("events", ask)

    def resume(self, run_id: str, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        return self._streamed("resume", run_id, after)

    async def cancel(self, run_id: str) -> None:
        await self._called("cancel", run_id)

    async def missing(self, name: str) -> str | None:
        found: str | None = await self._called("missing", name)
        return found

    async def _called(self, method: str, *arguments: Any) -> Any:
        response = getattr(self._resolved(), method).remote(*arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:
            raise translated(error, NAME) from error

    async def _streamed(self, method: str, *arguments: Any) -> AsyncIterator[dict[str, Any]]:
        response = getattr(self._resolved().options(stream=True), method).remote(*arguments)
        try:
            async for envelope in response:
                yield envelope
        except (asyncio.CancelledError, GeneratorExit):
            response.cancel()
            raise
        except Exception as error:
            raise translated(error, NAME) from error

    def _resolved(self) -> DeploymentHandle[Any]:
        if self._handle is None:
            try:
                self._handle = serve.get_deployment_handle(self._deployment, app_name=self._deployment)
            except Exception as error:
                raise Unavailable("No tribunal is deployed here.", "stopped") from error
        return self._handle
