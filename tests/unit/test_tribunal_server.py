"""What the tribunals' deployment is bound to, and who can sit in its tribunals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.applications import build_tribunal, tribunal_application
from app.serve_config import TRIBUNAL, serve_config
from app.settings import Settings, load_settings
from deployments.config import Lora, ModelSpec
from deployments.errors import BadRequest, UnknownModel, UnknownRun
from deployments.status import ModelState, ModelStatus
from deployments.tribunal.config import TribunalSpec
from deployments.tribunal.runs import LocalTribunals
from deployments.tribunal.server import Members, TribunalServer
from deployments.tribunal.service import TribunalAsk
from deployments.tribunal.virtual import TribunalModel
from tests.unit.fakes import FakeHerd
from tests.unit.tribunal_fakes import Panel, Voice, tribunals_over

QUESTION = ({"role": "user", "content": "where?"},)
LLAMA = ModelSpec(id="llama", source="x/y", context_tokens=4096, lora=Lora(adapters={"tuned": "/l"}), retry_after_s=9)
GONE = ModelSpec(id="gone", source="x/y")
VECTORS = ModelSpec(id="vectors", source="x/y", task="embed", lora=Lora(adapters={"tuned-vectors": "/l"}))
HERD = FakeHerd(ModelStatus("llama", ModelState.READY, 1, 1), ModelStatus("vectors", ModelState.READY, 1, 1))


def members_here() -> Members:
    return Members((LLAMA, GONE, VECTORS), HERD)


# --- members ---


def test_whoever_chats_is_known_with_the_context_of_the_model() -> None:
    assert members_here().known == {"llama": 4096, "tuned": 4096, "gone": 2048}


async def test_models_and_adapters_are_found_under_their_own_ids() -> None:
    members = members_here()
    assert [(await members.find(model)).model_id for model in members.known] == ["llama", "tuned", "gone"]
    assert await members.find("tuned") is await members.find("tuned")


@pytest.mark.parametrize("model", ["vectors", "tuned-vectors", "nobody", "tribunal", "tribunal/wise"])
async def test_nobody_else_is_found(model: str) -> None:
    with pytest.raises(UnknownModel) as refused:
        await members_here().find(model)
    assert refused.value.known == ("llama", "tuned", "gone")


async def test_tribunals_are_found_as_models_once_there_are_any() -> None:
    members = members_here()
    members.tribunals = tribunals_over(Panel(a=Voice()))
    found = [await members.find(model) for model in ("tribunal", "tribunal/default", "tribunal/wise")]
    assert all(isinstance(model, TribunalModel) for model in found)
    assert [model.model_id for model in found] == ["tribunal", "tribunal", "tribunal/wise"]


async def test_an_adapter_is_in_the_state_of_its_base() -> None:
    members = members_here()
    assert await members.status("tuned") == await members.status("llama") == HERD.states["llama"]


async def test_what_the_herd_does_not_know_is_failed() -> None:
    assert await members_here().status("gone") == ModelStatus("gone", ModelState.FAILED, reason="it is not deployed")


# --- the deployment ---


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: pocket\n"
        "tribunals:\n"
        "  default: {stop: {consensus: null}}\n"
        "  wise: {members: [{model: pocket-1b, role: a sceptic}, tribunal], rubric: {truth: 2}}\n"
    )
    return load_settings(path, {})


def arguments(application: Any) -> tuple[Any, ...]:
    """What the deployment's constructor gets, as it comes out of JSON."""
    found: tuple[Any, ...] = tuple(json.loads(json.dumps(application._bound_deployment.init_args)))
    return found


async def told_by(server: TribunalServer, settings: Settings) -> dict[str, Any]:
    """The specs as the server runs them."""
    inner: LocalTribunals = server._tribunals
    return {name: TribunalSpec.model_validate(inner.spec(name)) for name in inner.names}


async def test_the_server_takes_what_is_bound(settings: Settings) -> None:
    server = TribunalServer(*arguments(build_tribunal(settings, {"pocket-1b": "no such weights"})))
    assert await told_by(server, settings) == settings.tribunals


async def test_the_server_takes_what_a_serve_config_says(settings: Settings) -> None:
    config = json.loads(json.dumps(serve_config(settings)))
    args = next(each["args"] for each in config["applications"] if each["name"] == TRIBUNAL)
    server = TribunalServer(*arguments(tribunal_application(args)))
    assert await told_by(server, settings) == settings.tribunals


def test_only_what_the_profile_says_is_bound_so_that_an_ask_lies_over_it(settings: Settings) -> None:
    specs, models, failures, _ = arguments(build_tribunal(settings, {}))
    assert specs["wise"] == {
        "members": [{"model": "pocket-1b", "role": "a sceptic"}, {"model": "tribunal"}],
        "rubric": {"truth": 2.0},
    }
    assert [ModelSpec.model_validate(model) for model in models] == list(settings.specs)
    assert failures == {}


async def test_the_server_refuses_what_there_is_not(settings: Settings) -> None:
    server = TribunalServer(*arguments(build_tribunal(settings, {})))
    with pytest.raises(BadRequest, match="there is no tribunal 'x'; there are default, refine, wise"):
        await server.run(TribunalAsk(QUESTION, "x"))
    with pytest.raises(BadRequest, match="no model 'nobody' that chats; there are pocket-1b, pocket-3b"):
        await anext(server.events(TribunalAsk(QUESTION, config={"members": ["nobody"]})))
    with pytest.raises(UnknownModel, match="tribunal/x"):
        await server.missing("x")


async def test_the_server_refuses_runs_that_it_does_not_keep(settings: Settings) -> None:
    server = TribunalServer(*arguments(build_tribunal(settings, {})))
    with pytest.raises(UnknownRun):
        await server.cancel("tri-1")
    with pytest.raises(UnknownRun):
        await anext(server.resume("tri-1", 0))
