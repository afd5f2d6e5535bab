"""Tokens of requests to the engine: all of them, once, for who asked, however the request comes to its end."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.metering import DELTA, FINAL_ONLY, Used, meter
from deployments.plain_stream import write_plain_streams
from deployments.principal import CURRENT, Principal
from tests.unit.test_plain_stream import PLAIN, REST, Serving

ADA, BOB = Principal(key="ada", request="r1"), Principal(key="bob")
Kind = Enum("Kind", ["CUMULATIVE", "DELTA", "FINAL_ONLY"])
PROMPT = [1, 2, 3, 4]


@dataclass
class Step:
    """What the engine does next: so many tokens of one sequence, and perhaps its end."""

    tokens: int
    index: int = 0
    finish_reason: str | None = None


HANG = Step(0)
"""Nothing more comes."""


@dataclass
class Output:
    index: int
    token_ids: list[int]
    finish_reason: str | None
    text: str = "a"


@dataclass
class Result:
    outputs: Any
    finished: bool
    prompt_token_ids: list[int] | None = field(default_factory=lambda: list(PROMPT))
    num_cached_tokens: int | None = 3
    metrics: Any = None


@dataclass
class State:
    """vLLM's state of a sequence, and its detokenizer."""

    queue: Any
    token_ids: list[int] = field(default_factory=list)
    is_prefilling: bool = True
    prompt_len: int = len(PROMPT)
    num_cached_tokens: int = 3

    @property
    def detokenizer(self) -> State:
        return self

    def num_output_tokens(self) -> int:
        return len(self.token_ids)


class Engine:
    """An engine client that goes through a script, and makes its results of the three kinds as vLLM does."""

    def __init__(self, *script: Step | Exception) -> None:
        self.script = script
        self.asked: list[str] = []
        self.aborted: list[str] = []
        self.output_processor = SimpleNamespace(request_states=dict[str, State]())

    async def add_request(self, request_id: str, n: int) -> Any:
        self.asked.append(request_id)
        queue = SimpleNamespace(request_id=f"{request_id}-{len(self.asked)}")
        names = [queue.request_id] if n == 1 else [f"{index}_{queue.request_id}" for index in range(n)]
        self.output_processor.request_states |= {name: State(queue) for name in names}
        return queue

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, *, lora_request: Any = None, **named: Any
    ) -> AsyncGenerator[Result, None]:
        queue = await self.add_request(request_id, sampling_params.n)
        states = [state for state in self.output_processor.request_states.values() if state.queue is queue]
        try:
            outputs: list[Output] = []
            async for step in self._steps():
                outputs = _outputs(states, step, sampling_params.output_kind, outputs)
                finished = step is self.script[-1]
                if outputs and (finished or sampling_params.output_kind is not Kind.FINAL_ONLY):
                    yield Result(outputs, finished)
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise
        finally:
            left = self.output_processor.request_states.items()
            self.output_processor.request_states = {name: state for name, state in left if state.queue is not queue}

    async def encode(
        self, prompt: Any, pooling_params: Any, request_id: str, lora_request: Any = None
    ) -> AsyncGenerator[Result, None]:
        self.asked.append(request_id)
        async for _ in self._steps():
            yield Result(SimpleNamespace(data=[0.5]), True)

    async def _steps(self) -> AsyncGenerator[Step, None]:
        for step in self.script:
            if isinstance(step, Exception):
                raise step
            if step is HANG:
                await asyncio.Event().wait()
            yield step


def _outputs(states: Sequence[State], step: Step, kind: Kind, before: list[Output]) -> list[Output]:
    state = states[step.index]
    state.is_prefilling = False
    state.token_ids += [7] * step.tokens
    if kind is Kind.DELTA:
        return [Output(step.index, [7] * step.tokens, step.finish_reason)]
    output = Output(step.index, state.token_ids, step.finish_reason)  # vLLM's own list, which grows
    if kind is Kind.CUMULATIVE:
        return [output]
    return [*before, output] if step.finish_reason else before


def ask(engine: Any, kind: Kind = Kind.DELTA, n: int = 1, lora: str | None = None) -> Any:
    adapter = SimpleNamespace(lora_name=lora) if lora else None
    params = SimpleNamespace(output_kind=kind, n=n)
    return engine.generate("hello", params, "id", lora_request=adapter)


def metered(*script: Step | Exception) -> tuple[Engine, list[Used]]:
    engine, used = Engine(*script), list[Used]()
    meter(engine, "base", used.append, clock=lambda: 0)
    return engine, used


async def drain(results: AsyncGenerator[Result, None]) -> None:
    async for _ in results:
        pass


async def begin(results: AsyncGenerator[Result, None]) -> asyncio.Task[None]:
    """A task that reads them, as far as it comes by itself."""
    task = asyncio.create_task(drain(results))
    await settle()
    return task


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def tokens(used: list[Used]) -> list[tuple[int, int, int, str]]:
    return [(each.prompt_tokens, each.completion_tokens, each.cached_tokens, each.outcome) for each in used]


TWO = (Step(2, 0), Step(1, 1), Step(3, 1, "stop"), Step(4, 0, "length"))


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    ("n", "script", "count"), [(1, (Step(2), Step(1), Step(0), Step(3, 0, "stop")), 6), (2, TWO, 10)]
)
async def test_an_answer_counts_its_tokens_once(kind: Kind, n: int, script: tuple[Step, ...], count: int) -> None:
    engine, used = metered(*script)
    await drain(ask(engine, kind, n))
    assert tokens(used) == [(4, count, 3, "done")]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("n", [1, 2])
async def test_who_leaves_in_the_middle_is_counted_to_there(kind: Kind, n: int) -> None:
    """An answer that does not stream has shown nothing by then."""
    engine, used = metered(Step(2), Step(5, n - 1), HANG)
    task = await begin(ask(engine, kind, n))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert engine.aborted == ["id"]
    assert tokens(used) == [(4, 7, 3, "cancelled")]


@pytest.mark.parametrize("kind", Kind)
async def test_an_engine_that_fails_is_counted_to_there(kind: Kind) -> None:
    engine, used = metered(Step(2), RuntimeError("the engine died"))
    with pytest.raises(RuntimeError, match="the engine died"):
        await drain(ask(engine, kind))
    assert tokens(used) == [(4, 2, 3, "failed")]


async def test_a_prompt_that_was_not_read_yet_counts_nothing() -> None:
    engine, used = metered(HANG)
    task = await begin(ask(engine))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert tokens(used) == [(0, 0, 0, "cancelled")]


class Refusing(Engine):
    async def add_request(self, request_id: str, n: int) -> Any:
        raise ValueError("the prompt is too long")


async def test_what_the_engine_refuses_used_nothing() -> None:
    engine, used = Refusing(), list[Used]()
    meter(engine, "base", used.append)
    with pytest.raises(ValueError, match="too long"):
        await drain(ask(engine))
    assert tokens(used) == [(0, 0, 0, "failed")]


class Other:
    """An engine client of another vLLM: no states, and the prompt with the first result alone."""

    def __init__(self, *results: Result) -> None:
        self.results = results

    async def generate(self, *_: Any, **__: Any) -> AsyncGenerator[Result, None]:
        for result in self.results:
            yield result

    encode = generate


async def test_another_vllm_is_counted_by_what_went_by() -> None:
    later = Result([Output(0, [7, 7, 7], None)], False, prompt_token_ids=None, num_cached_tokens=None)
    engine, used = Other(Result([Output(0, [7, 7], None)], False), later, later), list[Used]()
    meter(engine, "base", used.append)
    results = ask(engine)
    await anext(results)
    await anext(results)
    await results.aclose()
    assert tokens(used) == [(4, 5, 3, "cancelled")]


async def test_a_generator_that_nobody_reads_is_no_request() -> None:
    engine, used = metered(Step(1, 0, "stop"))
    ask(engine)
    unread = ask(engine)
    await unread.aclose()
    del unread
    await settle()
    assert (engine.asked, used) == ([], [])


async def test_a_generator_that_is_closed_ends_the_request_at_once() -> None:
    engine, used = metered(Step(1), Step(2), HANG)
    results = ask(engine)
    await anext(results)
    await results.aclose()
    await results.aclose()
    assert engine.aborted == ["id"]
    assert tokens(used) == [(4, 1, 3, "cancelled")]


async def test_a_generator_that_is_dropped_is_reported() -> None:
    """As vLLM's own generators leave the engine's."""
    engine, used = metered(Step(1), Step(2), HANG)
    results = ask(engine)
    await anext(results)
    del results
    await settle()
    assert engine.aborted == ["id"]
    assert tokens(used) == [(4, 1, 3, "cancelled")]


async def test_a_generator_closed_while_it_waits_is_reported_when_the_wait_ends() -> None:
    """merge_async_iterators of vLLM's does so."""
    engine, used = metered(Step(1), HANG)
    results = ask(engine)
    await anext(results)
    waiting = asyncio.ensure_future(anext(results))
    await settle()
    waiting.cancel()
    with suppress(RuntimeError):  # it is running
        await results.aclose()
    await asyncio.gather(waiting, return_exceptions=True)
    await settle()
    assert engine.aborted == ["id"]
    assert tokens(used) == [(4, 1, 3, "cancelled")]


async def test_it_is_reported_as_the_last_result_goes_by() -> None:
    engine, used = metered(Step(1), Step(1, 0, "stop"))
    results = ask(engine)
    await anext(results)
    assert used == []
    await anext(results)
    assert tokens(used) == [(4, 2, 3, "done")]
    await results.aclose()
    assert len(used) == 1


@pytest.mark.parametrize(("reason", "outcome"), [("abort", "cancelled"), ("error", "failed"), ("length", "done")])
@pytest.mark.parametrize("kind", Kind)
async def test_the_engines_own_reasons_to_end_are_told_apart(kind: Kind, reason: str, outcome: str) -> None:
    engine, used = metered(Step(2), Step(0, 0, reason))
    await drain(ask(engine, kind))
    assert tokens(used) == [(4, 2, 3, outcome)]


async def test_it_is_the_callers_wherever_it_is_read() -> None:
    engine, used = metered(Step(1), Step(1, 0, "stop"))
    CURRENT.set(ADA)
    results = ask(engine)
    CURRENT.set(BOB)
    await asyncio.create_task(drain(results))
    await drain(ask(engine))
    assert [each.principal for each in used] == [ADA, BOB]


@pytest.mark.parametrize("n", [1, 2])
async def test_requests_side_by_side_are_not_mixed_up(n: int) -> None:
    engine, used = metered(Step(1), Step(2), HANG)
    tasks = [await begin(ask(engine, Kind.FINAL_ONLY, n, lora=name)) for name in ("a", "b")]
    for task in tasks:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [(each.model, each.completion_tokens) for each in used] == [("a", 3), ("b", 3)]


async def test_what_else_is_added_to_the_engine_is_another_request() -> None:
    engine, used = metered(Step(1), HANG)
    results = ask(engine)
    await anext(results)
    await engine.add_request("other", 1)
    other = engine.output_processor.request_states["other-2"]
    other.is_prefilling, other.token_ids = False, [7] * 100
    await results.aclose()
    assert tokens(used) == [(4, 1, 3, "cancelled")]


async def test_an_adapter_is_a_model_of_its_own() -> None:
    engine, used = metered(Step(1, 0, "stop"))
    await drain(ask(engine, lora="legal"))
    await drain(ask(engine))
    assert [each.model for each in used] == ["legal", "base"]


@pytest.mark.parametrize("lora", [None, SimpleNamespace(lora_name="legal")])
async def test_an_embedding_counts_its_prompt(lora: Any) -> None:
    engine, used = metered(Step(0))
    await drain(engine.encode(prompt="hello", pooling_params=None, request_id="id", lora_request=lora))
    assert tokens(used) == [(4, 0, 3, "done")]
    assert used[0].model == (lora.lora_name if lora else "base")


async def test_times_are_from_the_call_on() -> None:
    now, used = 10.0, list[Used]()
    engine = Engine(Step(1), Step(1, 0, "stop"))
    meter(engine, "base", used.append, clock=lambda: now)
    results = ask(engine)
    now = 11.5
    await anext(results)
    now = 14.0
    await anext(results)
    assert (used[0].ttft_s, used[0].seconds) == (1.5, 4)


@pytest.mark.parametrize(("metrics", "ttft_s"), [(SimpleNamespace(first_token_latency=0.25), 0.25), (None, None)])
async def test_the_first_token_of_an_answer_that_does_not_stream_is_vllms_to_tell(
    metrics: Any, ttft_s: float | None
) -> None:
    engine, used = Other(Result([Output(0, [7], "stop")], True, metrics=metrics)), list[Used]()
    meter(engine, "base", used.append)
    await drain(ask(engine, Kind.FINAL_ONLY))
    assert used[0].ttft_s == ttft_s


async def test_a_plain_stream_counts_what_its_generator_never_saw() -> None:
    """It writes the tokens it held back into a result that went by."""
    engine, used = metered(*[Step(1)] * 5, Step(2, 0, "stop"))
    serving = Serving()
    assert write_plain_streams(serving)
    events = [each async for each in serving.chat_completion_stream_generator(PLAIN, ask(engine), *REST)]
    assert len(serving.asked) < 6
    assert events[-2] == "data: 7\n\n"
    assert tokens(used) == [(4, 7, 3, "done")]


async def test_a_plain_stream_that_is_left_is_counted_to_there() -> None:
    engine, used = metered(*[Step(1)] * 9, HANG)
    serving = Serving()
    write_plain_streams(serving)
    stream = serving.chat_completion_stream_generator(PLAIN, ask(engine), *REST)
    for _ in range(5):
        await anext(stream)
    await stream.aclose()
    assert engine.aborted == ["id"]
    assert tokens(used) == [(4, 4, 3, "cancelled")]  # its first event is the role


def _vllm(path: str, name: str) -> ast.ClassDef:
    """A class of the vLLM that is installed, unimported."""
    found = importlib.util.find_spec("vllm")
    assert found
    assert found.submodule_search_locations
    tree = ast.parse((Path(found.submodule_search_locations[0]) / path).read_text())
    return next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)


def _function(node: ast.ClassDef, name: str) -> ast.AsyncFunctionDef | ast.FunctionDef:
    kinds = (ast.AsyncFunctionDef, ast.FunctionDef)
    return next(each for each in node.body if isinstance(each, kinds) and each.name == name)


def _attributes(node: ast.AST) -> set[str]:
    return {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}


def test_this_vllm_has_the_names_that_this_rests_on() -> None:
    client = _vllm("v1/engine/async_llm.py", "AsyncLLM")
    generate, encode = _function(client, "generate"), _function(client, "encode")
    assert [each.arg for each in generate.args.args] == ["self", "prompt", "sampling_params", "request_id"]
    assert "lora_request" in [each.arg for each in generate.args.kwonlyargs]
    assert [each.arg for each in encode.args.args][1:5] == ["prompt", "pooling_params", "request_id", "lora_request"]
    assert "add_request" in _attributes(generate) & _attributes(encode)
    state = _function(_vllm("v1/engine/output_processor.py", "RequestState"), "__init__")
    assert {"prompt_len", "is_prefilling", "num_cached_tokens", "detokenizer", "queue"} <= _attributes(state)
    assert "request_states" in _attributes(
        _function(_vllm("v1/engine/output_processor.py", "OutputProcessor"), "__init__")
    )
    assert _function(_vllm("v1/engine/detokenizer.py", "IncrementalDetokenizer"), "num_output_tokens")
    kinds = {
        each.id for each in ast.walk(_vllm("sampling_params.py", "RequestOutputKind")) if isinstance(each, ast.Name)
    }
    assert {DELTA, FINAL_ONLY} <= kinds
