"""Calls over a handle whose replica is lost: what had no answer is asked of another one, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OwnerDiedError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from app.bulk import BulkJob, Runner, run_bulk
from app.bulk_gates import Gates
from app.errors import problem_of
from deployments import second_try
from deployments.chat import ChatModel, ChatReply, ChatRequest, Usage
from deployments.errors import BadRequest, DeadlineExceeded, EngineFailed, Overloaded, ServingError, Unavailable
from deployments.model_client import ModelClient
from deployments.second_try import any_replica, in_two_tries
from tests.unit.handle_fakes import HANG, Handle
from tests.waiting import eventually

DIED = ActorDiedError()
LOSSES = [
    RayActorError(),
    DIED,
    ActorUnavailableError("no answer", None),
    WorkerCrashedError(),
    NodeDiedError("the node is gone"),
    OwnerDiedError("00" * 28, None, ""),
    ConnectionResetError(),
]
REQUEST = ChatRequest(({"role": "user", "content": "where?"},), {"max_tokens": 8})
REPLY = {
    "choices": [{"message": {"content": "in the corral"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
}
FIRST, LAST = {"choices": [{"delta": {"content": "in"}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}
OWN = [BadRequest("no", "seed"), Overloaded("full", 7), DeadlineExceeded("late"), EngineFailed("it failed")]


def said_by_replica(error: Exception) -> Exception:
    """As Ray raises what a replica raised."""
    raised: Exception = RayTaskError("corral_chat", "", error).as_instanceof_cause()
    return raised


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_try, "PAUSE_S", 0)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[ModelClient, Handle]]:
    def made(*calls: Sequence[Any], replicas: Sequence[Any] | Exception = (0,)) -> tuple[ModelClient, Handle]:
        handle = Handle(list(calls), replicas)
        monkeypatch.setattr("deployments.generation.serve.get_deployment_handle", lambda *_, **__: handle)
        return ModelClient("m", retry_after_s=9), handle

    return made


Client = Callable[..., tuple[ModelClient, Handle]]


# --- one answer ---


@pytest.mark.parametrize("lost", LOSSES, ids=lambda error: type(error).__name__)
async def test_what_a_lost_replica_had_not_answered_another_one_answers(client: Client, lost: Exception) -> None:
    model, handle = client([lost], [REPLY])
    assert await model.chat(REQUEST) == ChatReply("in the corral", "m", "stop", Usage(3, 4))
    first, second = handle.asked
    assert first == second
    assert handle.probes == 1


async def test_calls_that_are_lost_together_look_for_another_replica_once(client: Client) -> None:
    model, handle = client(*[[DIED]] * 16, *[[REPLY]] * 17)
    replies = await asyncio.gather(*[model.chat(REQUEST) for _ in range(16)])
    assert {reply.text for reply in replies} == {"in the corral"}
    assert handle.probes == 1


async def test_one_that_gives_up_does_not_end_the_others_search(client: Client) -> None:
    model, handle = client(*[[DIED]] * 2, [REPLY])
    leaves, stays = (asyncio.create_task(model.chat(REQUEST)) for _ in range(2))
    for _ in range(3):
        await asyncio.sleep(0)
    leaves.cancel()
    assert (await stays).text == "in the corral"
    assert leaves.cancelled()
    assert handle.probes == 1


@pytest.mark.parametrize("error", [*OWN, ConnectionResetError(), ActorDiedError()], ids=repr)
async def test_what_a_replica_says_itself_is_final(client: Client, error: Exception) -> None:
    model, handle = client([said_by_replica(error)], [REPLY])
    with pytest.raises(ServingError) as told:
        await model.chat(REQUEST)
    assert told.value.reason == getattr(error, "reason", "engine_failed")
    assert len(handle.asked) == 1


@pytest.mark.parametrize(
    ("error", "told"), [(BackPressureError(1, 1), Overloaded), (DeploymentUnavailableError("m"), Unavailable)]
)
async def test_so_is_what_serve_refuses(client: Client, error: Exception, told: type[Exception]) -> None:
    model, handle = client([error], [REPLY])
    with pytest.raises(told):
        await model.chat(REQUEST)
    assert len(handle.asked) == 1


async def test_who_loses_two_replicas_is_told_so(client: Client) -> None:
    model, handle = client([DIED], [DIED], [REPLY])
    with pytest.raises(EngineFailed, match="so did the replica that was asked next") as failed:
        await model.chat(REQUEST)
    assert len(handle.asked) == 2
    assert (problem_of(failed.value).status, problem_of(failed.value).code) == (502, "engine_failed")


@pytest.mark.parametrize("error", [*map(said_by_replica, OWN), BackPressureError(1, 1)], ids=repr)
async def test_what_the_second_one_says_is_told_as_it_is(client: Client, error: Exception) -> None:
    model, handle = client([DIED], [error])
    with pytest.raises(ServingError) as told:
        await model.chat(REQUEST)
    assert told.value.reason == getattr(error, "reason", "queue_full")
    assert len(handle.asked) == 2


async def test_where_there_is_no_other_replica_nobody_is_asked_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_try, "PATIENCE_S", 0.3)
    model, handle = client([DIED], [REPLY], replicas=())
    with pytest.raises(EngineFailed, match="no other replica of it answers"):
        await model.chat(REQUEST)
    assert len(handle.asked) == 1
    assert handle.probes >= 2


async def test_the_second_call_goes_to_the_generation_of_the_model_that_is_there_then(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, old = client([DIED], replicas=())
    task = asyncio.create_task(model.chat(REQUEST))
    await eventually(lambda: old.probes > 0)
    new = Handle([[REPLY]])
    monkeypatch.setattr("deployments.generation.serve.get_deployment_handle", lambda *_, **__: new)
    model.move("m:2", 9)
    assert (await task).text == "in the corral"
    assert (len(old.asked), len(new.asked)) == (1, 1)


# --- who asks ---


@pytest.mark.parametrize("replicas", [(), (DIED,)], ids=["none", "a dead one"])
async def test_who_has_gone_is_not_asked_for_again(client: Client, replicas: Sequence[Any]) -> None:
    model, handle = client([DIED], [REPLY], replicas=replicas)
    task = asyncio.create_task(model.chat(REQUEST))
    await eventually(lambda: handle.probes > 0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert len(handle.asked) == 1


async def test_who_goes_during_the_second_try_ends_it(client: Client) -> None:
    model, handle = client([DIED], [HANG])
    task = asyncio.create_task(model.chat(REQUEST))
    await eventually(lambda: len(handle.responses) == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [response.cancelled for response in handle.responses] == [1, 1]  # the lost one may only be out of reach


async def test_a_deadline_counts_both_tries(client: Client) -> None:
    model, handle = client([DIED], [HANG])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await model.chat(REQUEST)
    assert handle.responses[1].cancelled == 1


# --- streams ---


async def streamed(model: ModelClient) -> str:
    return "".join([delta.text async for delta in model.stream(REQUEST)])


async def test_a_stream_that_had_not_begun_begins_elsewhere(client: Client) -> None:
    model, handle = client([DIED], [[FIRST], [LAST]])
    assert await streamed(model) == "in"
    assert [method for method, _ in handle.asked] == ["corral_stream"] * 2


async def test_a_stream_that_had_begun_breaks_off(client: Client) -> None:
    model, handle = client([[FIRST], DIED], [[FIRST], [LAST]])
    stream: Any = model.stream(REQUEST)
    async with aclosing(stream) as deltas:
        assert (await anext(deltas)).text == "in"
        with pytest.raises(EngineFailed, match="broke off while answering; the request can be sent again"):
            await anext(deltas)
    assert len(handle.asked) == 1


@pytest.mark.parametrize("calls", [([[FIRST], HANG],), ([DIED], [[FIRST], HANG])], ids=["first", "second"])
async def test_who_stops_to_listen_ends_the_call(client: Client, calls: Any) -> None:
    model, handle = client(*calls)
    stream: Any = model.stream(REQUEST)
    async with aclosing(stream) as deltas:
        await anext(deltas)
    assert handle.responses[-1].cancelled == 1


# --- many items ---


def contents(asked: tuple[str, Any]) -> list[str]:
    method, bodies = asked
    assert method == "corral_chat_many"
    return [body["messages"][0]["content"] for body in bodies]


def items(count: int) -> list[ChatRequest]:
    return [ChatRequest(({"role": "user", "content": str(index)},)) for index in range(count)]


async def many(model: ModelClient, count: int) -> dict[int, ChatReply | Exception]:
    found: dict[int, ChatReply | Exception] = {}
    async for some in model.chat_many(items(count)):
        for index, answer in some:
            assert index not in found
            found[index] = answer
    return found


async def test_only_items_without_an_answer_are_asked_again(client: Client) -> None:
    refused = BadRequest("no", "seed")
    model, handle = client([[(3, REPLY), (1, refused)], DIED], [[(1, REPLY)], [(0, REPLY), (2, refused)]])
    found = await many(model, 5)
    assert [contents(asked) for asked in handle.asked] == [["0", "1", "2", "3", "4"], ["0", "2", "4"]]
    assert {index: type(answer).__name__ for index, answer in sorted(found.items())} == {
        0: "ChatReply", 1: "BadRequest", 2: "ChatReply", 3: "ChatReply", 4: "BadRequest",
    }  # fmt: skip


async def test_items_that_lose_two_replicas_fail(client: Client) -> None:
    model, handle = client([[(0, REPLY)], DIED], [[(0, REPLY)], DIED], [])
    async with aclosing(model.chat_many(items(3))) as answers:
        assert [index for _ in range(2) for index, _ in await anext(answers)] == [0, 1]
        with pytest.raises(EngineFailed, match="so did the replica that was asked next"):
            await anext(answers)
    assert len(handle.asked) == 2


async def test_a_replica_that_is_lost_after_its_last_answer_has_lost_nothing(client: Client) -> None:
    model, handle = client([[(0, REPLY), (1, REPLY)], DIED])
    assert set(await many(model, 2)) == {0, 1}
    assert handle.probes == 0


async def test_a_bulk_call_has_an_answer_to_each_item(client: Client) -> None:
    """As POST /bulk runs it."""
    model, _ = client([[(1, REPLY)], DIED], [[(0, REPLY)], [(1, REPLY)]])

    async def find(_: str) -> ChatModel:
        return model

    jobs = [BulkJob(index, "m", "m", request) for index, request in enumerate(items(3))]
    lines = [line async for line in run_bulk(jobs, Runner(find, Gates(4), 5))]
    assert sorted(line.index for line in lines) == [0, 1, 2]
    assert all(line.reply for line in lines)


# --- the helpers ---


@pytest.mark.parametrize(
    ("replicas", "there"),
    [((0, 3), True), ((DIED, 0), True), ((DIED,), False), ((), False), (TimeoutError(), True)],
    ids=["two", "one of two", "a dead one", "none", "slow"],
)
async def test_a_replica_is_there_if_one_answers_or_may(
    replicas: Sequence[Any] | Exception, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_try, "PATIENCE_S", 0.01)
    assert await any_replica(lambda: Handle([], replicas)) is there


async def test_without_a_loss_nobody_looks_for_another() -> None:
    async def ask() -> AsyncGenerator[int, None]:
        yield 1
        yield 2

    async def another() -> bool:
        raise AssertionError

    assert [each async for each in in_two_tries(ask, another, "m")] == [1, 2]
