"""What must not go past vLLM's own routes: whatever is put around them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deployments.direct_chat import ARGUMENTS, KEY, DirectChat

SCOPE: dict[str, Any] = {"type": "http", "headers": []}


class Request:
    @staticmethod
    def model_validate(parsed: dict[str, Any]) -> dict[str, Any]:
        return parsed


class Serving:
    async def create_chat_completion(self, request: Any, raw: Any) -> Any:
        async def events() -> Any:
            yield "data: x\n\n"

        return events()


async def is_taken(arguments: dict[str, Any], stream: bool = True) -> bool:
    state = SimpleNamespace(openai_serving_chat=Serving(), args=SimpleNamespace(**arguments))
    direct = DirectChat(SimpleNamespace(state=state), Request)
    return await direct.events({"stream": stream}, SCOPE) is not None


async def test_a_stream_is_taken_and_a_whole_answer_is_not() -> None:
    assert await is_taken({})
    assert not await is_taken({}, stream=False)


@pytest.mark.parametrize("name", ARGUMENTS)
async def test_an_argument_that_puts_something_around_the_routes(name: str) -> None:
    assert not await is_taken({name: "x"})


async def test_a_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    assert not await is_taken({})
