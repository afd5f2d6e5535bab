"""What leaves a replica over its handle: our errors, no class of vLLM's, and nothing once the engine is dead."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import pickle
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import BadRequest, EngineFailed, Overloaded, PromptTooLong, ServingError, UnknownModel
from deployments.last_words import HELD_S, LastWords
from deployments.vllm_errors import CLIENT_ERROR, as_ours, first_fault, serving_error
from tests.waiting import eventually


def vllms(name: str, *bases: type[Exception]) -> Any:
    """A class as vLLM has them; to import its own takes seconds."""
    return type(name, bases or (Exception,), {"__module__": "vllm.exceptions"})


CLIENT = vllms(CLIENT_ERROR)
INVALID, DEAD = vllms("VLLMValidationError", CLIENT), vllms("EngineDeadError")


class Process:
    """A replica's: whether its engine is dead, and how long a call was held."""

    def __init__(self, dead: bool = False) -> None:
        self.is_dead, self.held = dead, list[float]()
        self.ended = asyncio.Event()

    def around(self) -> LastWords:
        return LastWords(lambda: self.is_dead, self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.held.append(seconds)
        await self.ended.wait()


async def failing(process: Process, error: BaseException, begun: bool = False) -> None:
    async with process.around() as last:
        last.begun = begun
        raise error


# --- with a living engine ---


async def test_what_goes_well_is_left_alone() -> None:
    async with Process().around():
        answer = "in the corral"
    assert answer


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("error", [BadRequest("no", "seed"), Overloaded("full", 7)], ids=repr)
async def test_our_errors_leave_as_they_are(error: ServingError, dead: bool) -> None:
    with pytest.raises(type(error)) as told:
        await failing(process := Process(dead), error)
    assert told.value is error
    assert process.held == []


@pytest.mark.parametrize("error", [DEAD("the core is gone"), KeyError("secret"), RuntimeError(INVALID("secret"))])
async def test_any_other_leaves_as_ours(error: Exception) -> None:
    with pytest.raises(EngineFailed) as told:
        await failing(process := Process(), error)
    assert process.held == []
    sent = pickle.dumps(told.value)
    assert b"vllm" not in sent
    assert b"secret" not in sent
    assert type(error).__name__ in told.value.message


async def test_what_vllm_says_is_wrong_with_a_request_is_a_bad_request() -> None:
    error = INVALID("top_k must be at least 1")
    error.parameter = "top_k"
    with pytest.raises(BadRequest, match="top_k must be at least 1") as told:
        await failing(Process(), error)
    assert told.value.param == "top_k"
    assert b"vllm" not in pickle.dumps(told.value)


@pytest.mark.parametrize("dead", [False, True])
async def test_a_caller_that_goes_ends_it(dead: bool) -> None:
    process, began = Process(dead), asyncio.Event()

    async def call() -> None:
        async with process.around():
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await began.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert process.held == []


async def test_a_cancellation_of_the_engines_own_is_passed_on_while_it_lives() -> None:
    with pytest.raises(asyncio.CancelledError):
        await failing(Process(), asyncio.CancelledError())


# --- with a dead one ---


@pytest.mark.parametrize("error", [DEAD("gone"), EngineFailed("gone"), asyncio.CancelledError()], ids=repr)
async def test_what_has_no_answer_says_nothing_before_the_process_ends(error: BaseException) -> None:
    process = Process(dead=True)
    task = asyncio.create_task(failing(process, error))
    await eventually(lambda: process.held == [HELD_S])
    assert not task.done()
    process.ended.set()  # which it is not in time for, if the process does not end after all
    with pytest.raises(EngineFailed):
        await task


async def test_what_had_begun_breaks_off_at_once() -> None:
    process = Process(dead=True)
    with pytest.raises(EngineFailed):
        await failing(process, DEAD("gone"), begun=True)
    assert process.held == []


async def test_who_goes_is_not_held() -> None:
    process = Process(dead=True)
    task = asyncio.create_task(failing(process, DEAD("gone")))
    await eventually(lambda: bool(process.held))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


# --- vLLM's words ---


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"message": "no", "code": 400, "param": "seed"}, BadRequest("no", "seed")),
        ({"message": "no", "code": 422}, BadRequest("no")),
        (
            {"message": "past the context length", "code": 400, "param": "input_tokens"},
            PromptTooLong("past the context length", "messages"),
        ),
        ({"message": "x", "code": 404}, UnknownModel("x")),
        ({"message": "died", "code": 500}, EngineFailed("died")),
        ({"message": "died"}, EngineFailed("died")),
    ],
)
def test_its_answers_are_told_apart_by_their_code(told: dict[str, Any], error: ServingError) -> None:
    found = serving_error(told)
    assert (type(found), found.args) == (type(error), error.args)


def test_an_error_without_words_has_a_message() -> None:
    assert as_ours(CLIENT()).message == ""
    assert as_ours(ValueError()).message == "The engine failed on this request: ValueError."


def test_a_fault_of_a_body_names_its_field() -> None:
    class Faulty(ValueError):
        def errors(self) -> list[dict[str, Any]]:
            return [{"loc": ("messages", 0, "role"), "msg": "Field required"}]

    assert first_fault(Faulty()) == ("messages.0.role: Field required", "messages.0.role")
    assert first_fault(ValueError("no grammar")) == ("no grammar", None)


def test_this_vllm_has_the_class_that_this_rests_on() -> None:
    found = importlib.util.find_spec("vllm")
    assert found
    assert found.submodule_search_locations
    tree = ast.parse((Path(found.submodule_search_locations[0]) / "exceptions.py").read_text())
    classes = {node.name: [ast.unparse(base) for base in node.bases] for node in tree.body
               if isinstance(node, ast.ClassDef)}  # fmt: skip
    assert CLIENT_ERROR in classes
    assert classes["VLLMValidationError"] == [CLIENT_ERROR]
