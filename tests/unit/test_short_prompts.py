"""Short prompts are rendered in the event loop, long ones in vLLM's thread; another renderer is left as it is."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from deployments.short_prompts import SHORT_CHARS, SHORT_MESSAGES, is_short, render_short_here


def template(model_config: Any, tokenizer: Any, conversation: Any, **options: Any) -> tuple[str, str]:
    return "rendered", threading.current_thread().name


class Renderer:
    """Passes its work to a thread, as vLLM's renderer does."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "vllm")

    async def _apply_chat_template_async(self, *given: Any, **options: Any) -> Any:
        return await self._in_thread(template, *given)

    async def _tokenize_prompt_async(self, prompt: Any, params: Any) -> Any:
        return await self._in_thread(self._tokenize_prompt, prompt, params)

    def _tokenize_prompt(self, prompt: Any, params: Any) -> tuple[int, str]:
        return len(prompt["prompt"]), threading.current_thread().name

    async def _in_thread(self, work: Any, *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *given)


async def where(renderer: Any, content: Any, **options: Any) -> bool:
    """Whether it was rendered in the event loop's thread."""
    messages = [{"role": "user", "content": content}]
    found: tuple[str, str] = await renderer._apply_chat_template_async(None, None, messages, **options)
    assert found[0] == "rendered"
    return found[1] == threading.current_thread().name


async def test_a_short_prompt_takes_no_thread_and_a_long_one_does() -> None:
    renderer = Renderer()
    assert render_short_here(renderer, template)
    assert await where(renderer, "x" * SHORT_CHARS)
    assert not await where(renderer, "x" * (SHORT_CHARS + 1))
    assert not await where(renderer, "x", tools=[{"type": "function"}])
    for chars in (SHORT_CHARS, SHORT_CHARS + 1):
        counted, thread = await renderer._tokenize_prompt_async({"prompt": "x" * chars}, None)
        assert counted == chars
        assert (thread == threading.current_thread().name) is (chars == SHORT_CHARS)


async def test_another_renderer_is_left_as_it_is() -> None:
    other = Renderer()
    other._tokenize_prompt_async = None  # type: ignore[method-assign, assignment]
    assert not render_short_here(other, template)
    assert not await where(other, "x")


@pytest.mark.parametrize(
    ("content", "short"),
    [
        ("", True),
        ([{"type": "text", "text": "x" * 10}, {"type": "text", "text": "y" * 10}], True),
        ([{"type": "text", "text": "x" * SHORT_CHARS}, {"type": "text", "text": "y"}], False),
        ([{"type": "image"}], False),
        (None, False),
        ([{"text": [{"text": "nested"}]}], True),
    ],
)
def test_what_counts_as_short(content: Any, short: bool) -> None:
    assert is_short([{"role": "user", "content": content}]) is short


def test_many_messages_are_long() -> None:
    assert is_short([{"content": ""}] * SHORT_MESSAGES)
    assert not is_short([{"content": ""}] * (SHORT_MESSAGES + 1))
