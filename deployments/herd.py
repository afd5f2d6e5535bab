"""ServeHerd: what every model is doing, from Ray Serve's own status. Imports no Ray."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from deployments.config import ModelSpec
from deployments.progress import read_phase
from deployments.status import ModelState, ModelStatus

MAX_AGE_S = 0.5
REASON_CHARACTERS = 600


class ServeHerd:
    """Implements status.Herd.

    failures: models that could not even be deployed -> why.
    read: returns Serve's status (serve_state.read_status); may block for milliseconds.
    """

    def __init__(
        self,
        specs: tuple[ModelSpec, ...],
        failures: Mapping[str, str] | None = None,
        *,
        read: Callable[[], Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._specs, self._failures = specs, dict(failures or {})
        self._read, self._clock = read, clock
        self._lock = asyncio.Lock()
        self._seen: dict[str, ModelStatus] = {}
        self._seen_at = float("-inf")

    async def statuses(self) -> Mapping[str, ModelStatus]:
        async with self._lock:
            if self._clock() - self._seen_at > MAX_AGE_S:
                applications = (await asyncio.to_thread(self._read)).applications
                self._seen = {spec.id: self._status(spec, applications.get(spec.app_name)) for spec in self._specs}
                self._seen_at = self._clock()
        return self._seen

    def _status(self, spec: ModelSpec, application: Any) -> ModelStatus:
        if spec.id in self._failures:
            return ModelStatus(spec.id, ModelState.FAILED, reason=self._failures[spec.id])
        return model_status(spec, application, read_phase(spec.id))


def model_status(spec: ModelSpec, application: Any, phase: str | None) -> ModelStatus:
    """One application of Serve's status (None: not deployed yet) in our words."""
    if application is None:
        return ModelStatus(spec.id, ModelState.STARTING, phase="waiting to be deployed")
    deployment = application.deployments.get(spec.id)
    counts = {str(word(state)): count for state, count in (deployment.replica_states if deployment else {}).items()}
    running, coming = counts.get("RUNNING", 0), sum(counts.get(s, 0) for s in ("STARTING", "UPDATING", "RECOVERING"))
    state = _state(word(application.status), running, coming)
    return ModelStatus(
        id=spec.id,
        state=state,
        replicas=running,
        target_replicas=getattr(deployment, "target_num_replicas", None) or running + coming,
        phase=_phase(phase, coming) if state is ModelState.STARTING else None,
        reason=_reason(application, deployment) if state is not ModelState.READY else None,
    )


def _state(status: str, running: int, coming: int) -> ModelState:
    if status == "DELETING":
        return ModelState.STOPPING
    if running:
        return ModelState.READY
    if status == "DEPLOY_FAILED":
        return ModelState.FAILED
    if status == "RUNNING" and not coming:
        return ModelState.IDLE
    return ModelState.STARTING


def _phase(phase: str | None, coming: int) -> str:
    if not coming:
        return "waiting for resources"
    return phase or "starting the process"


def _reason(application: Any, deployment: Any) -> str | None:
    message = (deployment.message if deployment else "") or application.message
    return short_reason(message) if message else None


def short_reason(message: str) -> str:
    """The line of a traceback that says what went wrong, without Ray's frame around it."""
    lines = [line.strip() for line in message.replace("\\n", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", line)]
    return (errors[-1] if errors else lines[0] if lines else message)[:REASON_CHARACTERS]


def word(value: Any) -> str:
    """Enum or string, as the versions of Serve differ."""
    return str(getattr(value, "value", value))
