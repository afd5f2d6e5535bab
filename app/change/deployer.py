"""The service's side of serve_side: starts the process, sends it orders, reads its answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from app.settings import Settings
from deployments.config import ModelSpec
from deployments.status import ModelState, ModelStatus

LINE_BYTES = 16 << 20


class DeployerError(Exception):
    """What Serve or Ray said, or that they cannot be asked."""


class Deployer:
    """Use it with `async with`. Its methods raise DeployerError."""

    def __init__(self, environment: Mapping[str, str], serve: tuple[str, int], log: Path) -> None:
        self._environment, self._serve, self._log = environment, serve, log
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        host, port = self._serve
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "app.change.serve_side", host, str(port), env=dict(self._environment),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, limit=LINE_BYTES,
            )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        """It has nothing to lose, and takes 5 s to leave Ray by itself."""
        assert self._process
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def prepare(self) -> None:
        """Have it import what takes seconds."""
        await self._ask("prepare")

    async def models(self, settings: Settings, specs: Sequence[ModelSpec]) -> dict[str, str]:
        """Deploy these models; returns those that cannot be, and why."""
        if not specs:
            return {}
        part = settings.model_copy(update={"models": {spec.id: spec for spec in specs}, "tribunals": {}})
        failures: dict[str, str] = await self._ask("models", settings=part.model_dump(mode="json"))
        return failures

    async def system(self, settings: Settings) -> None:
        """Tell the gateway, the tribunals and the documents."""
        await self._ask("system", settings=settings.model_dump(mode="json"))

    async def settled(self, specs: Sequence[ModelSpec] = ()) -> bool:
        """Whether these models, else the system's own applications, have taken what they were told."""
        return bool(await self._ask("settled", applications=[spec.app_name for spec in specs]))

    async def look(self, specs: Sequence[ModelSpec]) -> dict[str, ModelStatus]:
        """Model -> what this generation of it is doing."""
        told = await self._ask("look", models=[spec.model_dump(mode="json") for spec in specs])
        return {spec.id: _status(told[spec.deployed_id]) for spec in specs}

    async def under_way(self, spec: ModelSpec) -> int:
        return int(await self._ask("under_way", model=spec.model_dump(mode="json")))

    async def delete(self, spec: ModelSpec) -> None:
        await self._ask("delete", application=spec.app_name)

    async def gone(self, spec: ModelSpec) -> bool:
        return bool(await self._ask("gone", application=spec.app_name))

    async def unplaced(self, specs: Sequence[ModelSpec]) -> bool:
        """Whether one of them waits for room, and not only for its worker."""
        return bool(await self._ask("unplaced", applications=[spec.app_name for spec in specs]))

    async def free(self) -> list[dict[str, float]]:
        """What is free on each node."""
        found: list[dict[str, float]] = await self._ask("free")
        return found

    async def _ask(self, call: str, **arguments: Any) -> Any:
        process = self._process
        assert process
        assert process.stdin
        assert process.stdout
        async with self._lock:
            try:
                process.stdin.write(json.dumps({"call": call, "with": arguments}).encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
            except OSError as error:
                raise DeployerError(f"{call}: {error}; its log is {self._log}") from None
        if not line:
            raise DeployerError(f"the process that deploys has ended; its log is {self._log}")
        answer = json.loads(line)
        if "error" in answer:
            raise DeployerError(f"{call}: {answer['error']}")
        return answer["result"]


def _status(told: Mapping[str, Any]) -> ModelStatus:
    return ModelStatus(**{**told, "state": ModelState(told["state"])})
