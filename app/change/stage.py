"""What a change asks of the running service around it: its edge, its keeper, and which settings are in force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.settings import Settings
from deployments.config import ModelSpec


class Stage(Protocol):
    """Implemented by app.service.Service."""

    @property
    def in_force(self) -> Settings:
        """What is served now, each model with its generation."""
        ...

    async def widen(self, settings: Settings, coming: Sequence[ModelSpec]) -> None:
        """Have the edge take these settings, and room for models to come; what is routed stays. Raises EdgeError."""
        ...

    async def take(self, settings: Settings) -> None:
        """Put these in force: route to their models and no others, for whatever part starts again, too.

        Raises EdgeError.
        """
        ...

    async def answers(self, spec: ModelSpec) -> str | None:
        """Ask one of its replicas for a token, so that no person is the first; why there is none, or None."""
        ...

    async def routed(self, specs: Sequence[ModelSpec]) -> None:
        """Wait until Serve's own proxy knows the way to them: until then it takes their paths for the gateway's."""
        ...

    async def abandoned(self, spec: ModelSpec) -> None:
        """End what waits in Serve for this one, which is deleted and had nobody to take it; it can be sent again."""
        ...

    def forget_phase(self, spec: ModelSpec) -> None:
        """What is known of the start of another generation."""
        ...

    @property
    def older_edges(self) -> int:
        """HAProxy processes from before a reload, which still route as before it."""
        ...
