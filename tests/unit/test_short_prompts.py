"""Short prompts are rendered in one go in the event loop, long ones in vLLM's thread; another stays as it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.pocket import CHECKPOINTS
from deployments.short_prompts import (
    ASYNC,
    SHORT_CHARS,
    SHORT_MESSAGES,
    are_short_chats,
    are_short_prompts,
    render_short_here,
)

POCKET_1B = CHECKPOINTS / "pocket-1b"
TEXT, LONG_TEXT = "Who keeps the herd? " * 20, "x " * SHORT_CHARS
PARTS = [{"type": "text", "text": "Who keeps"}, {"type": "text", "text": "the herd?"}]
NO_TOOLS = SimpleNamespace(chat_template_kwargs={"tools": None})


class Renderer:
    """Tells which of its ways was taken."""

    def render_chat(self, conversations: Any, params: Any, tokens: Any = None, *, skip_mm_cache: bool = False) -> str:
        return f"here {tokens} {skip_mm_cache}"

    def render_cmpl(self, prompts: Any, tokens: Any = None) -> str:
        return f"here {tokens}"

    async def render_chat_async(self, *given: Any, **named: Any) -> str:
        return "elsewhere"

    async def render_cmpl_async(self, *given: Any, **named: Any) -> str:
        return "elsewhere"


@pytest.fixture
def renderer() -> Renderer:
    renderer = Renderer()
    assert render_short_here(renderer)
    return renderer


async def test_a_short_chat_is_rendered_here_with_all_that_was_said(renderer: Renderer) -> None:
    chat = [[{"role": "user", "content": TEXT}]]
    assert await renderer.render_chat_async(chat, NO_TOOLS, "tokens", skip_mm_cache=True) == "here tokens True"
    tools = SimpleNamespace(chat_template_kwargs={"tools": [{"type": "function"}]})
    assert await renderer.render_chat_async(chat, tools) == "elsewhere"
    long = [[{"role": "user", "content": LONG_TEXT}]]
    assert await renderer.render_chat_async(long, NO_TOOLS) == "elsewhere"


async def test_a_short_completion_is_rendered_here(renderer: Renderer) -> None:
    assert await renderer.render_cmpl_async([{"prompt": TEXT}], "tokens") == "here tokens"
    assert await renderer.render_cmpl_async([{"prompt": LONG_TEXT}], "tokens") == "elsewhere"


@pytest.mark.parametrize("name", ["render_chat", "render_chat_async", "render_cmpl", "render_cmpl_async"])
async def test_another_renderer_is_left_as_it_is(name: str) -> None:
    other = Renderer()
    setattr(other, name, None)
    before = dict(vars(other))
    assert not render_short_here(other)
    assert not render_short_here(None)
    assert vars(other) == before


@pytest.mark.parametrize(
    ("content", "short"),
    [
        ("", True),
        ([{"type": "text", "text": "x" * 10}, {"type": "text", "text": "y" * 10}], True),
        ([{"type": "text", "text": "x" * SHORT_CHARS}, {"type": "text", "text": "y"}], False),
        ([{"type": "image"}], False),
        ([{"type": "image"}, 1], False),
        ("x" * SHORT_CHARS, True),
        ("x" * (SHORT_CHARS + 1), False),
        (None, False),
        (iter("x"), False),
    ],
)
def test_what_counts_as_a_short_chat(content: Any, short: bool) -> None:
    assert are_short_chats([[{"role": "user", "content": content}]]) is short


def test_all_conversations_count_together() -> None:
    half = [{"content": "x" * (SHORT_CHARS // 2)}]
    assert are_short_chats([half, half])
    assert not are_short_chats([half, half, [{"content": "x"}]])
    assert are_short_chats([[{"content": ""}]] * SHORT_MESSAGES)
    assert not are_short_chats([[{"content": ""}]] * (SHORT_MESSAGES + 1))


@pytest.mark.parametrize(
    ("prompts", "short"),
    [
        ([{"prompt": TEXT}, {"prompt_token_ids": [1, 2]}], True),
        ([{"prompt_token_ids": [1] * (SHORT_CHARS + 1)}], False),
        ([{"prompt": "x" * SHORT_CHARS}, {"prompt": "x"}], False),
        ([{"prompt": ""}] * (SHORT_MESSAGES + 1), False),
        ([b"embeddings"], False),
        ([{"prompt_embeds": object()}], False),
    ],
)
def test_what_counts_as_a_short_prompt(prompts: Any, short: bool) -> None:
    assert are_short_prompts(prompts) is short


@pytest.fixture(scope="module")
def real() -> Iterator[Any]:
    """vLLM's own, for the smallest model."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.renderers.registry import renderer_from_config

    renderer = renderer_from_config(AsyncEngineArgs(model=str(POCKET_1B), max_model_len=2048).create_engine_config())
    yield renderer
    renderer.shutdown()


@pytest.mark.filterwarnings("ignore")  # of what vLLM imports
@pytest.mark.parametrize(
    ("content", "short"), [(TEXT, True), (PARTS, True), ("Ein Hirte - 牧羊人 🐑", True), (LONG_TEXT, False)]
)
async def test_vllm_s_renderer_says_the_same_both_ways(
    real: Any, content: Any, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    asked = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": content}]})
    params = asked.build_chat_params(None, "auto").with_defaults({"tools": None, "tokenize": False})  # as vLLM does
    tokens = replace(asked.build_tok_params(real.model_config), max_total_tokens=None)
    prompts = [{"prompt": TEXT if short else LONG_TEXT}]

    async def rendered() -> list[dict[str, Any]]:
        _, chats = await real.render_chat_async([asked.messages], params, tokens)
        completions = await real.render_cmpl_async(prompts, tokens)
        return [{**each, "arrival_time": 0} for each in [*chats, *completions]]

    elsewhere = await rendered()
    for name in ASYNC:  # as they are, to be put back
        monkeypatch.setattr(real, name, getattr(real, name))
    assert render_short_here(real)
    threads, split = list[str](), real._tokenize_prompt

    def noted(*given: Any) -> Any:
        threads.append(_thread())
        return split(*given)

    monkeypatch.setattr(real, "_tokenize_prompt", noted)
    assert await rendered() == elsewhere
    assert threads == ([_thread()] * 2 if short else [])  # vLLM's thread has its own word for it


def _thread() -> str:
    return threading.current_thread().name
