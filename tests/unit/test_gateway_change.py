"""A gateway that is told of other settings: requests under way stay, clients are kept, counts go on."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from app.gateway import Gateway, Kept, build_services
from app.replaceable_app import ReplaceableApp
from app.retrieval.resolved import with_documents
from app.settings import Settings
from deployments.config import ModelSpec
from deployments.model_clients import ModelClients
from tests.unit.asgi import client_of
from tests.unit.change_fakes import profile, profile_of

SERVE = ("127.0.0.1", 8000)


def resolved(settings: Settings) -> Settings:
    return with_documents(settings)


def spec(settings: Settings, model: str, generation: int) -> Settings:
    models = {**settings.models, model: settings.models[model].model_copy(update={"generation": generation})}
    return settings.model_copy(update={"models": models})


async def test_a_request_ends_in_the_app_that_it_began_in() -> None:
    go_on = asyncio.Event()

    def saying(text: bytes, waits: bool) -> Any:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": text, "more_body": True})
            if waits:
                await go_on.wait()
            await send({"type": "http.response.body", "body": text})

        return app

    app = ReplaceableApp(saying(b"old", waits=True))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        first = asyncio.create_task(http.get("/"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        app.app = saying(b"new", waits=False)
        assert (await http.get("/")).content == b"newnew"
        go_on.set()
        assert (await first).content == b"oldold"


async def test_an_app_that_is_told_of_other_models_lists_them_and_counts_on() -> None:
    gateway = Gateway(resolved(profile("a", "b")).model_dump_json(), *SERVE, {"a": "no weights", "b": "none either"})
    app = await gateway.__serve_build_asgi_app__()
    async with client_of(app) as http:
        assert (await http.get("/v1/models/c")).status_code == 404
        await gateway.reconfigure({"settings": resolved(profile("b", "c")).model_dump_json()})
        refused = await http.post("/generate", json={"model": "a", "prompt": "x"})
        assert refused.json()["error"]["code"] == "model_not_found"
        assert "b, c" in refused.json()["error"]["message"]
        counted = gateway._kept.telemetry.exposition()
    assert 'corral_gateway_requests_total{method="GET",route="/v1/models/{model}",status="404"} 1.0' in counted


async def test_the_same_settings_change_nothing() -> None:
    settings = resolved(profile("a")).model_dump_json()
    gateway = Gateway(settings, *SERVE, {})
    app = await gateway.__serve_build_asgi_app__()
    first = app.app
    await gateway.reconfigure({"settings": settings})
    assert app.app is first
    await gateway.reconfigure({"settings": resolved(profile("a", "b")).model_dump_json()})
    assert app.app is not first


def test_what_failed_at_the_start_is_not_said_of_the_next_generation() -> None:
    kept = Kept(SERVE, {"a": "no weights"})
    settings = resolved(profile("a", "b"))
    assert kept.failures(settings.specs) == {"a": "no weights"}
    assert kept.failures(spec(settings, "a", 1).specs) == {}


def test_requests_are_passed_on_to_the_generation_that_is_in_force() -> None:
    services = build_services(spec(resolved(profile("a", "b")), "a", 3), Kept(SERVE))
    assert services.upstream.routes == {"a": "/models/a:3", "b": "/models/b"}
    assert dict(services.base_of) == {"a": "a", "b": "b"}


def test_clients_are_the_same_over_changes_and_lead_to_the_next_generation() -> None:
    clients = ModelClients()
    settings = profile_of({"a": {"lora": {"adapters": {"tuned": "/x"}}}, "b": {}})
    before = dict(clients.of(settings.specs))
    assert list(before) == ["a", "tuned", "b"]
    after = clients.of(spec(settings, "a", 2).specs)
    assert all(after[served] is before[served] for served in before)
    assert [before[each]._generation.deployed_id for each in ("tuned", "b")] == ["a:2", "b"]


def test_an_adapter_that_belongs_to_another_model_now_gets_another_client() -> None:
    clients = ModelClients()
    before = clients.of(profile_of({"a": {"lora": {"adapters": {"tuned": "/x"}}}, "b": {}}).specs)
    after = clients.of(profile_of({"a": {}, "b": {"lora": {"adapters": {"tuned": "/x"}}}}).specs)
    assert before["tuned"].base == "a"
    assert after["tuned"].base == "b"


@pytest.mark.parametrize(("generation", "names"), [(0, ("model-a", "/models/a")), (12, ("model-a:12", "/models/a:12"))])
def test_a_generation_is_an_application_of_its_own(generation: int, names: tuple[str, str]) -> None:
    found = ModelSpec(id="a", source="x/y", generation=generation)
    assert (found.app_name, found.route_prefix) == names
