"""One generation of a model as a client of it knows it: the handle, and the calls that are under way over it.

Serve lets a call wait for ever that no replica has taken, also when the application has been deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.config import application
from deployments.serve_state import read_status

log = logging.getLogger("corral.models")
POLL_S = 1.0


class GenerationEnded(ConnectionError):
    """The generation that was asked is gone; another one may be there."""


class Generation:
    """base: the deployment's name. deployed_id: names its application."""

    def __init__(self, base: str, deployed_id: str) -> None:
        self.deployed_id = deployed_id
        self._base = base
        self._handle: DeploymentHandle[Any] | None = None
        self._calls: set[Any] = set()
        self._following: asyncio.Task[None] | None = None
        self.left = False
        """Whether it is on its way out."""
        self.ended = False

    @property
    def handle(self) -> DeploymentHandle[Any]:
        """Resolved when it is first asked for. Raises what Serve raises."""
        if self._handle is None:
            self._handle = serve.get_deployment_handle(self._base, app_name=application(self.deployed_id))
        return self._handle

    @contextmanager
    def call(self, response: Any) -> Iterator[None]:
        """While it is under way."""
        self._calls.add(response)
        self._follow()
        try:
            yield
        finally:
            self._calls.discard(response)

    def leave(self) -> None:
        """It is deleted once it has nothing more to do; what waits for it then is cancelled."""
        self.left = True
        self._follow()

    def _follow(self) -> None:
        if self.left and self._calls and (self._following is None or self._following.done()):
            self._following = asyncio.create_task(self._to_its_end())

    async def _to_its_end(self) -> None:
        while self._calls and not self.ended:
            self.ended = await asyncio.to_thread(self._is_gone)
            await asyncio.sleep(0 if self.ended else POLL_S)
        for response in list(self._calls):
            response.cancel()

    def _is_gone(self) -> bool:
        try:
            return application(self.deployed_id) not in read_status().applications
        except Exception as error:  # Serve's controller may be starting again
            log.debug("Serve tells nothing of %s: %r", self.deployed_id, error)
            return False
