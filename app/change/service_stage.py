"""ServiceStage: what a change does to the running service around it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import httpx

from app.edge import EdgeError
from app.private_files import write_private
from app.service_setup import context_tokens, edge_spec, gateway_client, served_by
from app.settings import Settings
from deployments.config import ModelSpec
from deployments.secret import secret_headers

if TYPE_CHECKING:
    from app.edge_config import EdgeSpec
    from app.service import Service

FOUND_S, FIRST_ANSWER_S, KEEPER_S = 15.0, 120.0, 5.0
POLL_S = 0.25


@dataclass(frozen=True)
class ServiceStage:
    """Implements stage.Stage."""

    service: Service

    @property
    def in_force(self) -> Settings:
        return self.service.settings

    async def widen(self, settings: Settings, coming: Sequence[ModelSpec]) -> None:
        edge = self.service.edge
        asked = edge_spec(settings, self.service.cluster, coming)
        asked = replace(asked, tls_cert=edge.spec.tls_cert)
        if not _covers(edge.spec, asked):
            await edge.reload(asked)
        self.service.coming = tuple(coming)

    async def take(self, settings: Settings) -> None:
        service = self.service
        service.coming = (*service.coming, *service.settings.models.values())
        service.settings = settings
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            await service.connect(await self._replicas())
        await service.edge.lead(served_by(settings))
        await self._tell_keeper(settings)
        write_private(service.settings_file, settings.model_dump_json())

    async def answers(self, spec: ModelSpec) -> str | None:
        if spec.task != "generate":
            return None
        try:
            async with asyncio.timeout(FOUND_S):
                while not (found := await self._addresses(spec)):
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            return "Serve tells no address of it"
        host, port = found[0]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}{spec.route_prefix}/v1/chat/completions"
        body = {"model": spec.id, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello!"}]}
        try:
            async with self._client(FIRST_ANSWER_S) as client:
                answer = await client.post(url, json=body)
        except httpx.HTTPError as error:
            return repr(error)
        return None if answer.status_code < 500 else answer.text[:300]

    async def routed(self, specs: Sequence[ModelSpec]) -> None:
        wanted = {spec.route_prefix for spec in specs}
        url = f"http://{self.service.cluster.serve_address}/-/routes"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FOUND_S), self._client(FOUND_S) as client:
                while not wanted <= await _paths(client, url):
                    await asyncio.sleep(POLL_S)

    async def abandoned(self, spec: ModelSpec) -> None:
        edge, (host, _, port) = self.service.edge, self.service.cluster.serve_address.rpartition(":")
        if spec.deployed_id in edge.spec.bases:
            with contextlib.suppress(EdgeError):  # it is just being started again, and its sessions are gone
                await edge.drop_sessions(spec.deployed_id, (host.strip("[]"), int(port)))

    def forget_phase(self, spec: ModelSpec) -> None:
        with contextlib.suppress(OSError):
            (self.service.cluster.progress / spec.id).unlink(missing_ok=True)

    @property
    def older_edges(self) -> int:
        return self.service.edge.older

    async def _tell_keeper(self, settings: Settings) -> None:
        """One that is just being started again has them with its configuration."""
        with contextlib.suppress(httpx.HTTPError):
            async with self._client(KEEPER_S) as client:
                url = f"{self.service.cluster.keeper_url}/models"
                (await client.post(url, json={"context_tokens": context_tokens(settings)})).raise_for_status()

    async def _addresses(self, spec: ModelSpec) -> list[tuple[str, int]]:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            told = (await self._replicas()).get(spec.app_name, [])
            return [address for ip, port in told if (address := self.service.cluster.replica(ip, port))]
        return []

    async def _replicas(self) -> Mapping[str, Any]:
        async with gateway_client(self.service.cluster, FOUND_S) as client:
            found: Mapping[str, Any] = (await client.get("/internal/replicas")).json()
            return found

    def _client(self, timeout_s: float) -> httpx.AsyncClient:
        headers = secret_headers(self.service.cluster.token)
        return httpx.AsyncClient(headers=headers, timeout=timeout_s, trust_env=False)


async def _paths(client: httpx.AsyncClient, url: str) -> set[str]:
    with contextlib.suppress(httpx.HTTPError, ValueError):
        return set((await client.get(url)).json())
    return set()


def _covers(now: EdgeSpec, asked: EdgeSpec) -> bool:
    """Whether the edge needs no reload: it has all backends, and nothing else differs."""
    if not set(asked.bases) <= set(now.bases):
        return False
    limits = {base: now.limits_of(base) for base in asked.limits}
    return replace(now, models=asked.models, spare=asked.spare, limits=limits) == asked
