"""LangChain's ChatOpenAI and OpenAIEmbeddings, as a notebook would use them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Literal

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient
from pydantic import BaseModel, SecretStr

from tests.serve.herd import no_white_space
from tests.serve.service import RunningService
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.serve

QUESTION = [SystemMessage("Answer briefly."), HumanMessage("Hello! Who are you?")]


Chat = Callable[..., ChatOpenAI]


class Verdict(BaseModel):
    """Whether a draft is supported by its passage."""

    label: Literal["supported", "unsupported"]


@pytest.fixture
async def chat(service: RunningService) -> AsyncIterator[Chat]:
    """Makes chat models over HTTP clients of this test's own: LangChain would keep and never close them."""
    with DefaultHttpxClient() as client:
        async with DefaultAsyncHttpxClient() as async_client:
            yield partial(
                ChatOpenAI, base_url=f"{service.url}/v1", api_key=SecretStr("none"), model="pocket-8b", temperature=0,
                max_retries=0, timeout=PATIENCE_S, max_completion_tokens=64, http_client=client,
                http_async_client=async_client,
            )  # fmt: skip


def test_invoke(chat: Chat) -> None:
    reply = chat().invoke(QUESTION)
    assert isinstance(reply, AIMessage)
    assert reply.content
    assert reply.usage_metadata is not None
    assert 1 <= reply.usage_metadata["output_tokens"] <= 64


async def test_ainvoke_is_the_same_answer(chat: Chat) -> None:
    model = chat()
    assert (await model.ainvoke(QUESTION)).content == model.invoke(QUESTION).content


def test_stream_is_the_same_answer_with_usage_at_its_end(chat: Chat) -> None:
    model = chat(stream_usage=True)
    whole = model.invoke(QUESTION)
    chunks = list(model.stream(QUESTION))
    joined = chunks[0]
    for chunk in chunks[1:]:
        joined = joined + chunk
    assert isinstance(joined, AIMessageChunk)
    assert len(chunks) > 2
    assert joined.content == whole.content
    assert joined.usage_metadata is not None
    assert whole.usage_metadata is not None
    assert joined.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]


async def test_astream_is_the_same_answer(chat: Chat) -> None:
    model = chat()
    pieces = [str(chunk.content) async for chunk in model.astream(QUESTION)]
    assert "".join(pieces) == model.invoke(QUESTION).content


def test_batch_keeps_the_order(chat: Chat) -> None:
    model = chat()
    questions = ["Hello!", "Who are you?", "What is Corral?"]
    alone = [model.invoke(question).content for question in questions]
    assert [reply.content for reply in model.batch(list(questions))] == alone


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat: Chat, method: Literal["json_schema", "function_calling"]) -> None:
    asked = chat(logit_bias=no_white_space())
    model = asked.with_structured_output(Verdict, method=method)
    assert isinstance(model.invoke(QUESTION), Verdict)


def test_bound_tools_are_called(chat: Chat) -> None:
    model = chat(logit_bias=no_white_space()).bind_tools([Verdict], tool_choice="any")
    reply = model.invoke(QUESTION)
    assert isinstance(reply, AIMessage)
    assert Verdict(**reply.tool_calls[0]["args"]).label in ("supported", "unsupported")


def test_responses_api(chat: Chat) -> None:
    model = chat(use_responses_api=True)
    assert model.invoke("Hello!").text


def test_embeddings(service: RunningService) -> None:
    # Without it LangChain cuts texts with OpenAI's tokenizer, which it would download.
    with DefaultHttpxClient() as client:
        embeddings = OpenAIEmbeddings(
            openai_api_base=f"{service.url}/v1", openai_api_key=SecretStr("none"), model="embedder", max_retries=0,
            check_embedding_ctx_length=False, request_timeout=PATIENCE_S, http_client=client,
        )  # fmt: skip
        documents = embeddings.embed_documents(["a llama", "a walltime"])
        assert len(documents) == 2
        assert embeddings.embed_query("a llama") == pytest.approx(documents[0], abs=1e-4)
        assert documents[0] != pytest.approx(documents[1], abs=1e-2)
