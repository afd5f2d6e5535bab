"""Engine clients that go through a script: what the meter sees of vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any

from deployments.metering import Used, meter

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


class Other:
    """An engine client of another vLLM: no states, and the prompt with the first result alone."""

    def __init__(self, *results: Result) -> None:
        self.results = results

    async def generate(self, *_: Any, **__: Any) -> AsyncGenerator[Result, None]:
        for result in self.results:
            yield result

    encode = generate


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
