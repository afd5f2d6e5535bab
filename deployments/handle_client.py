"""HandleClient: calls to a deployment that is an application of its own; what fails there is one of our errors here.

The deployment is an OnBehalf: it learns for whom it works.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.errors import Unavailable
from deployments.handle_errors import translated
from deployments.principal import CURRENT


class HandleClient:
    """The handle is resolved at the first call. Cancelling a call, or closing its iterator, cancels it there.

    deployment: name of the application and of its deployment. name: as people know it. missing: said without one.
    """

    def __init__(self, deployment: str, name: str, missing: str) -> None:
        self._deployment, self._name, self._missing = deployment, name, missing
        self._handle: DeploymentHandle[Any] | None = None

    async def called(self, method: str, *arguments: Any) -> Any:
        response = self._resolved().corral_called.remote(CURRENT.get().to_json(), method, *arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:
            raise translated(error, self._name) from error

    async def streamed(self, method: str, *arguments: Any) -> AsyncIterator[Any]:
        streaming = self._resolved().options(stream=True)
        response = streaming.corral_streamed.remote(CURRENT.get().to_json(), method, *arguments)
        try:
            async for item in response:
                yield item
        except (asyncio.CancelledError, GeneratorExit):
            response.cancel()
            raise
        except Exception as error:
            raise translated(error, self._name) from error

    def _resolved(self) -> DeploymentHandle[Any]:
        if self._handle is None:
            try:
                self._handle = serve.get_deployment_handle(self._deployment, app_name=self._deployment)
            except Exception as error:
                raise Unavailable(self._missing, "stopped") from error
        return self._handle
