"""Calls that wait for a generation of a model which never answers and is deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments import generation
from deployments.chat import ChatRequest
from deployments.errors import EngineFailed, UnknownModel
from deployments.model_client import ModelClient
from deployments.serve_state import ServeState
from tests.unit.handle_fakes import HANG, Handle
from tests.waiting import eventually

REQUEST = ChatRequest(({"role": "user", "content": "where?"},), {"max_tokens": 8})
REPLY = {"choices": [{"message": {"content": "in the corral"}, "finish_reason": "stop"}]}
PIECES = [[{"choices": [{"delta": {"content": "in"}}]}], [{"choices": [{"delta": {}, "finish_reason": "stop"}]}]]


class Serve:
    """What it says of its applications, and a handle for each."""

    def __init__(self, **handles: Handle) -> None:
        self.handles = {name.replace("_", ":"): handle for name, handle in handles.items()}
        self.there = set(self.handles)
        self.away = 0
        self.looks = 0

    def get_deployment_handle(self, _: str, app_name: str) -> Handle:
        return self.handles[app_name.removeprefix("model-")]

    def status(self) -> ServeState:
        self.looks += 1
        if self.away:
            self.away -= 1
            raise ConnectionError("the controller starts again")
        applications: dict[str, Any] = dict.fromkeys(f"model-{name}" for name in self.there)
        return ServeState(applications)


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(**handles: Handle) -> Serve:
        serve = Serve(**handles)
        monkeypatch.setattr("deployments.generation.serve.get_deployment_handle", serve.get_deployment_handle)
        monkeypatch.setattr(generation, "read_status", serve.status)
        monkeypatch.setattr(generation, "POLL_S", 0.001)
        return serve

    return made


async def started(model: ModelClient, handle: Handle) -> asyncio.Task[str]:
    asked = asyncio.create_task(text(model))
    await eventually(lambda: bool(handle.asked))
    return asked


async def text(model: ModelClient) -> str:
    return (await model.chat(REQUEST)).text


async def test_what_waits_for_one_that_is_gone_is_asked_of_the_next(serving: Any) -> None:
    serve = serving(m=Handle([[HANG]]), m_1=Handle([[REPLY]]))
    model = ModelClient("m")
    asked = await started(model, serve.handles["m"])
    model.move("m:1", 5)
    await eventually(lambda: serve.looks >= 2)
    assert serve.handles["m:1"].asked == []
    serve.there.remove("m")
    assert await asked == "in the corral"
    assert [each.cancelled for each in serve.handles["m"].responses] == [1]


async def test_a_stream_that_waits_begins_at_the_next(serving: Any) -> None:
    serve = serving(m=Handle([[HANG]]), m_1=Handle([PIECES]))
    model = ModelClient("m")
    asked = asyncio.create_task(streamed(model))
    await eventually(lambda: bool(serve.handles["m"].asked))
    model.move("m:1", 5)
    serve.there.remove("m")
    assert await asked == "in"


async def streamed(model: ModelClient) -> str:
    return "".join([delta.text async for delta in model.stream(REQUEST)])


async def test_while_it_drains_what_is_under_way_ends_there(serving: Any) -> None:
    old = Handle([[HANG]])
    serve = serving(m=old, m_1=Handle([]))
    model = ModelClient("m")
    asked = await started(model, old)
    model.move("m:1", 5)
    serve.away = 2
    await eventually(lambda: serve.looks >= 5)
    assert not asked.done()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    looks = serve.looks
    await asyncio.sleep(0.02)
    assert serve.looks <= looks + 1  # nobody waits any more
    assert serve.handles["m:1"].asked == []


async def test_what_waits_for_a_model_that_is_removed_ends_with_it(serving: Any) -> None:
    serve = serving(m=Handle([[HANG], [HANG]]))
    model = ModelClient("m")
    asked = await started(model, serve.handles["m"])
    model.close()
    late = asyncio.create_task(text(model))  # of work that began before
    await eventually(lambda: len(serve.handles["m"].asked) == 2)
    serve.there.clear()
    for each in (asked, late):
        with pytest.raises(UnknownModel):
            await each
    with pytest.raises(UnknownModel):
        await model.chat(REQUEST)
    assert len(serve.handles["m"].asked) == 2


async def test_two_generations_that_end_are_enough(serving: Any) -> None:
    serve = serving(m=Handle([[HANG]]), m_1=Handle([[HANG]]), m_2=Handle([]))
    model = ModelClient("m")
    asked = await started(model, serve.handles["m"])
    model.move("m:1", 5)
    serve.there.remove("m")
    await eventually(lambda: bool(serve.handles["m:1"].asked))
    model.move("m:2", 5)
    serve.there.remove("m:1")
    with pytest.raises(EngineFailed):
        await asked
    assert serve.handles["m:2"].asked == []


async def test_a_model_that_comes_back_is_asked_again(serving: Any) -> None:
    serve = serving(m=Handle([]), m_3=Handle([[REPLY]]))
    model = ModelClient("m")
    model.close()
    model.move("m:3", 5)
    assert await text(model) == "in the corral"
    assert serve.looks == 0
