"""Short prompts are rendered and tokenized where they are, in the event loop and in one go.

vLLM does so in a thread, that a long prompt holds up nobody, and on the way there and back the request waits eleven
times for its turn in the loop. For a short one that takes longer than the work itself, and beside a busy loop much
longer. The renderer can do the same without waiting, as it does for vLLM's offline class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

SHORT_CHARS = 4096
"""About a thousand tokens: a millisecond."""
SHORT_MESSAGES = 32
ASYNC, HERE = ("render_chat_async", "render_cmpl_async"), ("render_chat", "render_cmpl")


def render_short_here(renderer: Any) -> bool:
    """Have vLLM's renderer do so. False, nothing changed, if it is another."""
    if not all(callable(getattr(renderer, name, None)) for name in (*ASYNC, *HERE)):
        return False
    chat_elsewhere, completion_elsewhere = (getattr(renderer, name) for name in ASYNC)

    async def chat(conversations: Sequence[Any], params: Any, *rest: Any, **named: Any) -> Any:
        if are_short_chats(conversations) and not _tools(params):
            return renderer.render_chat(conversations, params, *rest, **named)
        return await chat_elsewhere(conversations, params, *rest, **named)

    async def completion(prompts: Sequence[Any], *rest: Any, **named: Any) -> Any:
        if are_short_prompts(prompts):
            return renderer.render_cmpl(prompts, *rest, **named)
        return await completion_elsewhere(prompts, *rest, **named)

    renderer.render_chat_async, renderer.render_cmpl_async = chat, completion
    return True


def are_short_chats(conversations: Sequence[Any]) -> bool:
    """Whether rendering these conversations takes no time worth a thread, all of them together."""
    return _short(_chars(message.get("content")) for messages in conversations for message in messages)


def are_short_prompts(prompts: Sequence[Any]) -> bool:
    """Texts or lists of tokens, as vLLM has parsed them."""
    return _short(
        _chars(each.get("prompt", each.get("prompt_token_ids"))) if isinstance(each, dict) else SHORT_CHARS + 1
        for each in prompts
    )


def _short(sizes: Iterable[int]) -> bool:
    first = list(islice(sizes, SHORT_MESSAGES + 1))
    return len(first) <= SHORT_MESSAGES and sum(first) <= SHORT_CHARS


def _tools(params: Any) -> Any:
    return (getattr(params, "chat_template_kwargs", None) or {}).get("tools")


def _chars(content: Any) -> int:
    """Of a text, or of parts that are texts or tokens; anything else counts as long."""
    if isinstance(content, str):
        return len(content)
    if isinstance(content, list) and all(isinstance(part, int) for part in content):
        return len(content)
    if isinstance(content, list) and len(content) <= SHORT_MESSAGES:
        return sum(_chars(part.get("text")) if isinstance(part, dict) else SHORT_CHARS + 1 for part in content)
    return SHORT_CHARS + 1
