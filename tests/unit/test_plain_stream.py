"""Streams written without vLLM's generator for the middle: the same events, whatever the engine gives."""

from __future__ import annotations

import importlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.plain_stream import is_plain, write_plain_streams


@dataclass
class Output:
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    index: int = 0


@dataclass
class Result:
    outputs: list[Output]


@dataclass
class Serving:
    """Streams as vLLM's serving layer does: an event for the role, one for each result, one for the usage."""

    asked: list[str] = field(default_factory=list)
    """The texts that came to this generator."""

    async def chat_completion_stream_generator(
        self,
        request: Any,
        result_generator: AsyncIterator[Result],
        request_id: str,
        model_name: str,
        conversation: list[Any],
        tokenizer: Any,
        request_metadata: Any,
    ) -> AsyncGenerator[str, None]:
        first, tokens = True, 0
        try:
            async for result in result_generator:
                if first:
                    yield event(role="assistant", content="")
                    first = False
                for output in result.outputs:
                    self.asked.append(output.text)
                    tokens += len(output.token_ids)
                    yield event(output.finish_reason, content=output.text)
            yield f"data: {tokens}\n\n"
        except RuntimeError as error:
            yield f"data: {error}\n\n"
        yield "data: [DONE]\n\n"


def event(finish_reason: str | None = None, **delta: str) -> str:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    dumped = json.dumps({"id": "x", "choices": [choice]}, ensure_ascii=False, separators=(",", ":"))
    return f"data: {dumped}\n\n"


PLAIN = SimpleNamespace(n=1, stream_options=None)
REST: tuple[Any, ...] = ("id", "model", [], None, None)


async def engine(results: list[Result], error: Exception | None = None) -> AsyncGenerator[Result, None]:
    for result in results:
        yield Result([Output(o.text, list(o.token_ids), o.finish_reason, o.index) for o in result.outputs])
    if error:
        raise error


async def events_of(results: list[Result], *, plain: bool, error: Exception | None = None) -> tuple[list[str], Serving]:
    serving = Serving()
    if plain:
        assert write_plain_streams(serving)
    stream = serving.chat_completion_stream_generator(PLAIN, engine(results, error), *REST)
    return [each async for each in stream], serving


OUTPUTS = st.builds(Output, st.text(max_size=6), st.lists(st.integers(0, 9), max_size=3))
RESULTS = st.lists(st.builds(Result, st.lists(OUTPUTS, min_size=0, max_size=2)), max_size=8)
ENDS = st.builds(Output, st.text(max_size=6), st.lists(st.integers(0, 9), max_size=3), st.just("stop"))


@given(RESULTS, ENDS)
async def test_the_events_are_those_of_the_generator_alone(results: list[Result], end: Output) -> None:
    whole = [*results, Result([end])]
    assert (await events_of(whole, plain=True))[0] == (await events_of(whole, plain=False))[0]


async def test_the_generator_sees_only_the_ends_of_a_plain_answer() -> None:
    texts = ["a", "b", 'c"\n', "", "d", "e"]
    results = [Result([Output(text, [1])]) for text in texts] + [Result([Output("f", [1], "stop")])]
    events, serving = await events_of(results, plain=True)
    assert serving.asked == ["a", "", "d", "f"]
    assert events[-2:] == ["data: 7\n\n", "data: [DONE]\n\n"]  # the tokens that it never saw are counted


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_what_ends_the_engine_is_worded_by_the_generator(after: int) -> None:
    results = [Result([Output("a", [1])])] * after
    events, _ = await events_of(results, plain=True, error=RuntimeError("the engine died"))
    assert events[-2:] == ["data: the engine died\n\n", "data: [DONE]\n\n"]


async def test_a_stream_that_is_left_ends_the_engines_request() -> None:
    ended: list[bool] = []

    async def watched() -> AsyncGenerator[Result, None]:
        try:
            while True:
                yield Result([Output("a", [1])])
        finally:
            ended.append(True)

    serving = Serving()
    write_plain_streams(serving)
    stream = serving.chat_completion_stream_generator(PLAIN, watched(), *REST)
    for _ in range(5):
        await anext(stream)
    await stream.aclose()
    assert ended == [True]


def test_another_vllm_keeps_its_own_way() -> None:
    async def generator(request: Any, surprise: Any) -> None: ...

    other = SimpleNamespace(chat_completion_stream_generator=generator)
    assert not write_plain_streams(other)
    assert other.chat_completion_stream_generator is generator


@pytest.mark.parametrize(
    "field",
    [
        {"n": 2},
        {"logprobs": True},
        {"tools": [{}]},
        {"tool_choice": "auto"},
        {"echo": True},
        {"return_token_ids": True},
        {"include_reasoning": False},
        {"stream_options": SimpleNamespace(continuous_usage_stats=True)},
    ],
    ids=lambda field: next(iter(field)),
)
def test_what_adds_to_each_event_is_not_plain(field: dict[str, Any]) -> None:
    assert is_plain(PLAIN)
    assert not is_plain(SimpleNamespace(**{**vars(PLAIN), **field}))


@pytest.mark.parametrize(
    ("parsers", "written"),
    [
        (
            SimpleNamespace(tool_parser_cls=SimpleNamespace(engine_based_streaming=False), reasoning_parser_cls=None),
            True,
        ),
        (
            SimpleNamespace(tool_parser_cls=SimpleNamespace(engine_based_streaming=True), reasoning_parser_cls=None),
            False,
        ),
        (SimpleNamespace(tool_parser_cls=None, reasoning_parser_cls=SimpleNamespace()), False),
    ],
)
def test_a_parser_that_reads_every_token_keeps_vllms_way(parsers: Any, written: bool) -> None:
    serving: Any = Serving()
    serving.parser_cls = parsers
    assert write_plain_streams(serving) is written


def test_every_tool_parser_of_this_vllm_says_how_it_reads() -> None:
    """The name that this rests on is vLLM's own."""
    abstract = importlib.import_module("vllm.tool_parsers.abstract_tool_parser")
    assert abstract.ToolParser.engine_based_streaming is False
