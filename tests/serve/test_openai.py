"""OpenAI's own client, on every route of OpenAI's that a Llama here answers."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from tests.serve.herd import ADAPTER, EMBEDDER, SERVED, TRIBUNALS, no_white_space
from tests.serve.service import RunningService

pytestmark = pytest.mark.serve

MODELS = ("pocket-1b", "pocket-8b", ADAPTER)
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello! Who are you?"}]
QUOTA: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "quota",
        "description": "Look up the quota of a partition.",
        "parameters": {
            "type": "object",
            "properties": {"partition": {"enum": ["cedar", "fir"]}, "hours": {"type": "integer", "maximum": 48}},
            "required": ["partition", "hours"],
            "additionalProperties": False,
        },
    },
}


class Quota(BaseModel):
    partition: Literal["cedar", "fir"]
    urgent: bool


def answer(openai: OpenAI, model: str = "pocket-8b", **parameters: Any) -> str:
    parameters = {"max_tokens": 24, "temperature": 0, **parameters}
    completion = openai.chat.completions.create(model=model, messages=HELLO, **parameters)
    return completion.choices[0].message.content or ""


def test_models_are_listed_in_the_order_of_the_profile(openai: OpenAI) -> None:
    assert [model.id for model in openai.models.list()] == [*SERVED, EMBEDDER, *TRIBUNALS]
    assert openai.models.retrieve("pocket-8b").id == "pocket-8b"


@pytest.mark.parametrize("model", MODELS)
def test_chat_answers_and_counts_its_tokens(openai: OpenAI, model: str) -> None:
    completion = openai.chat.completions.create(model=model, messages=HELLO, max_tokens=16, temperature=0)
    assert completion.model == model
    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason in ("stop", "length")
    usage = completion.usage
    assert usage is not None
    assert 1 <= usage.completion_tokens <= 16
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("model", MODELS)
def test_a_streamed_chat_is_the_same_answer_in_pieces(openai: OpenAI, model: str) -> None:
    whole = openai.chat.completions.create(model=model, messages=HELLO, max_tokens=16, temperature=0)
    stream = openai.chat.completions.create(
        model=model, messages=HELLO, max_tokens=16, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(map(bool, pieces)) > 1
    assert [chunk.usage for chunk in chunks if not chunk.choices] == [whole.usage]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason


async def test_streams_of_several_models_run_side_by_side(aopenai: AsyncOpenAI) -> None:
    async def stream(model: str) -> tuple[str, int]:
        pieces = 0
        async for chunk in await aopenai.chat.completions.create(
            model=model, messages=HELLO, max_tokens=32, stream=True, extra_body={"ignore_eos": True}
        ):
            assert chunk.model == model
            pieces += bool(chunk.choices and chunk.choices[0].delta.content)
        return model, pieces

    asked = [model for model in MODELS for _ in range(4)]
    done = await asyncio.gather(*map(stream, asked))
    assert [model for model, _ in done] == asked
    assert all(pieces > 1 for _, pieces in done)


async def test_seeded_requests_with_long_prompts_do_not_end_the_engine(
    aopenai: AsyncOpenAI, service: RunningService
) -> None:
    """Together they do not fit one step, so that some prompts are read in several."""

    async def ask(seed: int) -> str:
        prompt = f"Passage {seed}: " + "The willow partition has 12 nodes. " * 120
        messages: Any = [{"role": "user", "content": prompt}]
        reply = await aopenai.chat.completions.create(
            model="pocket-8b", messages=messages, max_tokens=8, temperature=1, seed=seed
        )
        return reply.choices[0].message.content or ""

    engines = [process.pid for process in service.engine_processes("pocket-8b")]
    together = await asyncio.gather(*map(ask, range(8)))
    assert all(together)
    assert [await ask(seed) for seed in range(8)] == together
    assert [process.pid for process in service.engine_processes("pocket-8b")] == engines


def test_completions_answer_prompt_by_prompt(openai: OpenAI) -> None:
    prompts = ["The cedar partition", "Hello"]
    both = openai.completions.create(model="pocket-8b", prompt=prompts, max_tokens=8, temperature=0)
    alone = [
        openai.completions.create(model="pocket-8b", prompt=prompt, max_tokens=8, temperature=0) for prompt in prompts
    ]
    assert [choice.text for choice in both.choices] == [completion.choices[0].text for completion in alone]


def test_a_streamed_completion_is_the_same_text_in_pieces(openai: OpenAI) -> None:
    whole = openai.completions.create(model="pocket-8b", prompt="The cedar", max_tokens=12, temperature=0)
    stream = openai.completions.create(
        model="pocket-8b", prompt="The cedar", max_tokens=12, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


def test_responses_answer(openai: OpenAI) -> None:
    response = openai.responses.create(
        model="pocket-8b", input="Hello! Who are you?", max_output_tokens=24, temperature=0
    )
    assert response.output_text
    assert response.usage is not None
    assert response.usage.output_tokens <= 24


def test_streamed_responses_end_with_the_whole_one(openai: OpenAI) -> None:
    events = list(
        openai.responses.create(model="pocket-8b", input="Hello!", max_output_tokens=24, temperature=0, stream=True)
    )
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert text
    assert last.response.output_text == text


def test_embeddings_have_length_one_and_depend_on_the_text(openai: OpenAI) -> None:
    texts = ["a llama in the corral", "the walltime of a job", "a llama in the corral"]
    found = openai.embeddings.create(model="embedder", input=texts)
    first, other, again = (item.embedding for item in found.data)
    assert math.isclose(math.hypot(*first), 1, abs_tol=1e-3)
    assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(first, again, strict=True))
    assert not all(math.isclose(a, b, abs_tol=1e-2) for a, b in zip(first, other, strict=True))


def test_embeddings_are_the_same_as_floats(openai: OpenAI) -> None:
    packed = openai.embeddings.create(model="embedder", input="a llama", encoding_format="base64")
    plain = openai.embeddings.create(model="embedder", input="a llama", encoding_format="float")
    assert plain.data[0].embedding
    assert len(packed.data) == len(plain.data) == 1


def call_quota(openai: OpenAI, tool_choice: Any) -> ChatCompletion:
    return openai.chat.completions.create(
        model="pocket-8b", messages=HELLO, tools=[QUOTA], tool_choice=tool_choice, max_tokens=64, temperature=0,
        logit_bias=no_white_space(),
    )  # fmt: skip


def test_a_named_tool_is_called_with_arguments_of_its_schema(openai: OpenAI) -> None:
    completion = call_quota(openai, {"type": "function", "function": {"name": "quota"}})
    calls = completion.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert_quota(calls[0].function.name, calls[0].function.arguments)


def test_a_required_tool_is_called(openai: OpenAI) -> None:
    completion = call_quota(openai, "required")
    calls = completion.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert_quota(calls[0].function.name, calls[0].function.arguments)


def test_a_streamed_tool_call_comes_in_pieces_that_join(openai: OpenAI) -> None:
    stream = openai.chat.completions.create(
        model="pocket-8b", messages=HELLO, tools=[QUOTA], tool_choice="required", max_tokens=64, temperature=0,
        logit_bias=no_white_space(), stream=True,
    )  # fmt: skip
    pieces = [call for chunk in stream if chunk.choices for call in chunk.choices[0].delta.tool_calls or []]
    first = [piece.function for piece in pieces if piece.index == 0 and piece.function]
    assert_quota("".join(piece.name or "" for piece in first), "".join(piece.arguments or "" for piece in first))


def assert_quota(name: str, arguments: str) -> None:
    parsed = json.loads(arguments)
    assert name == "quota"
    assert parsed["partition"] in ("cedar", "fir")
    assert isinstance(parsed["hours"], int)
    assert parsed["hours"] <= 48


def test_structured_output_parses_into_the_callers_type(openai: OpenAI) -> None:
    completion = openai.chat.completions.parse(
        model="pocket-8b", messages=HELLO, response_format=Quota, max_tokens=48, temperature=0
    )
    assert isinstance(completion.choices[0].message.parsed, Quota)


def test_an_answer_is_one_of_the_given_choices(openai: OpenAI) -> None:
    text = answer(openai, extra_body={"structured_outputs": {"choice": ["supported", "unsupported"]}})
    assert text in ("supported", "unsupported")


def test_an_answer_matches_the_given_expression(openai: OpenAI) -> None:
    text = answer(openai, extra_body={"structured_outputs": {"regex": r"node[0-9]{3}"}})
    assert text.removeprefix("node").isdecimal()
    assert len(text) == 7


def test_log_probabilities_are_there_for_every_token(openai: OpenAI) -> None:
    completion = openai.chat.completions.create(
        model="pocket-8b", messages=HELLO, max_tokens=12, temperature=0, logprobs=True, top_logprobs=3,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert completion.usage is not None
    assert len(logprobs.content) == completion.usage.completion_tokens == 12
    assert all(token.logprob <= 0 and len(token.top_logprobs) >= 3 for token in logprobs.content)
    assert all(token.token == token.top_logprobs[0].token for token in logprobs.content)


def test_a_seed_makes_sampling_repeatable(openai: OpenAI) -> None:
    sampled = [answer(openai, temperature=1.5, seed=seed) for seed in range(4)]
    assert [answer(openai, temperature=1.5, seed=seed) for seed in range(4)] == sampled
    assert len(set(sampled)) > 1


def test_a_stop_text_ends_the_answer_before_it(openai: OpenAI) -> None:
    free = answer(openai)
    middle = free.split()[2]
    assert answer(openai, stop=[middle]) == free[: free.index(middle)]


def test_several_answers_to_one_question(openai: OpenAI) -> None:
    completion = openai.chat.completions.create(model="pocket-8b", messages=HELLO, max_tokens=8, n=3, temperature=1)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]


def test_an_adapter_answers_otherwise_than_its_base_model(openai: OpenAI) -> None:
    assert answer(openai, ADAPTER) != answer(openai, "pocket-8b")
