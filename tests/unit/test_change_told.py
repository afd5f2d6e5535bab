"""What parts of a service are told of another profile while they run, and what of it they keep."""

from __future__ import annotations

from app.applications import build_gateway, build_retrieval, build_tribunal
from app.change.room import taken
from app.retrieval.resolved import with_documents
from app.service_setup import context_tokens, served_by
from deployments.config import ModelSpec
from deployments.principal import ANYBODY
from deployments.replicas import bounds
from deployments.retrieval.models import ProfileModels
from deployments.tribunal.client import TribunalClient
from deployments.tribunal.server import TribunalServer
from deployments.waiting_room import WaitingRoom, turns_of
from tests.unit.change_fakes import profile, profile_of

SINGLE = {"x": {"strategy": "single", "members": ["a"]}}


def test_every_application_is_told_what_may_change_and_is_not_ended_by_it() -> None:
    settings = with_documents(profile("a", tribunals=SINGLE))
    for application in (
        build_gateway(settings, "", 1, {}), build_tribunal(settings, {}), build_retrieval(settings),
    ):  # fmt: skip
        deployment = application._bound_deployment
        assert deployment.user_config
        assert deployment._version == "1"


async def test_tribunals_take_other_models_and_names() -> None:
    settings = with_documents(profile("a", tribunals=SINGLE))
    bound = build_tribunal(settings, {"a": "no weights"})._bound_deployment
    server = TribunalServer(*bound.init_args)
    told = build_tribunal(profile("b", tribunals={"y": {"strategy": "single", "members": ["b"]}}), {})
    await server.reconfigure(told._bound_deployment.user_config)
    assert server._tribunals.names == ("y",)
    assert list(server._members.known) == ["b"]
    assert (await server._members.find("b")).model_id == "b"


async def test_documents_are_answered_by_other_models() -> None:
    models = ProfileModels(profile("a").specs, TribunalClient({}, "tribunal"))
    before, context = await models.find("a")
    changed = profile_of({"a": {"context_tokens": 99}, "b": {}}).models
    moved = [changed["a"].model_copy(update={"generation": 4}), changed["b"]]
    models.take(moved, TribunalClient({}, "tribunal"))
    assert (context, (await models.find("a"))[1]) == (2048, 99)
    assert (await models.find("a"))[0] is before
    assert (await models.find("b"))[0].model_id == "b"


async def test_a_replica_keeps_who_is_in_its_engine_when_its_bounds_change() -> None:
    spec = ModelSpec(id="a", source="x/y", max_sequences=1, max_ongoing_requests=1, max_queued_requests=0)
    room = WaitingRoom(turns_of(spec))
    async with room.turn(ANYBODY, 1.0):
        room.bound(turns_of(spec.model_copy(update={"max_ongoing_requests": 2, "max_queued_requests": 5})))
        async with room.turn(ANYBODY, 1.0):
            assert room.turns.inside == 1
    assert room.turns.inside == 0


def test_bounds_are_those_fields_that_take_no_engine() -> None:
    spec = ModelSpec(id="a", source="x/y", max_ongoing_requests=3, max_queued_requests=4, beside_quiet=0.5)
    assert bounds(spec, 9) == {
        "max_ongoing_requests": 3, "max_queued_requests": 4, "beside_quiet": 0.5, "max_body": 9,
    }  # fmt: skip


def test_the_edge_and_the_keeper_know_a_model_by_its_ids_wherever_these_lead() -> None:
    settings = profile_of({"a": {"generation": 3, "lora": {"adapters": {"tuned": "/x"}}}, "b": {"context_tokens": 64}})
    assert served_by(settings) == (("a", "a:3"), ("tuned", "a:3"), ("b", "b"))
    assert context_tokens(settings) == {"a": 2048, "tuned": 2048, "b": 64}


def test_room_is_counted_by_workers_on_nodes() -> None:
    model = {"source": "x/y", "tensor_parallel": 2, "hardware": {"gpu_type": "A100", "cpus": 4, "labels": {"s": "1"}}}
    spec = ModelSpec(id="a", **model)
    node = {"CPU": 16.0, "GPU": 4.0, "corral:s=1": 1.0}
    left = taken(spec, 2, [node])
    assert left
    assert (left[0]["CPU"], left[0]["GPU"]) == (0.0, 0.0)
    assert node["GPU"] == 4.0
    assert taken(spec, 2, [{**node, "CPU": 15.0}]) is None
    assert taken(spec, 1, [{**node, "corral:s=1": 0.0}]) is None
    assert taken(spec, 1, [{**node, "GPU": 1.0}, {**node, "GPU": 1.0}])
    assert taken(spec, 1, []) is None
