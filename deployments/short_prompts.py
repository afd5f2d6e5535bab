"""Short prompts are rendered and tokenized where they are, in the event loop.

vLLM passes both to a thread, so that a long prompt holds up nobody. For a short one that is the larger part of the
work: it takes less time than the thread takes to wake up, which beside a busy loop also waits for the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

SHORT_CHARS = 4096
"""About a thousand tokens: a millisecond."""
SHORT_MESSAGES = 32
RENDER, TOKENIZE = "_apply_chat_template_async", "_tokenize_prompt_async"


def render_short_here(renderer: Any, apply_template: Callable[..., Any]) -> bool:
    """Have vLLM's renderer do so; apply_template is what its thread runs. False, nothing changed, if it is another."""
    render, tokenize = getattr(renderer, RENDER, None), getattr(renderer, TOKENIZE, None)
    tokenize_here = getattr(renderer, "_tokenize_prompt", None)
    if not (render and tokenize and tokenize_here):
        return False

    async def rendered(model_config: Any, tokenizer: Any, conversation: Any, **options: Any) -> Any:
        if is_short(conversation) and not options.get("tools"):
            return apply_template(model_config, tokenizer, conversation, **options)
        return await render(model_config, tokenizer, conversation, **options)

    async def tokenized(prompt: Any, params: Any) -> Any:
        if len(prompt["prompt"]) <= SHORT_CHARS:
            return tokenize_here(prompt, params)
        return await tokenize(prompt, params)

    setattr(renderer, RENDER, rendered)
    setattr(renderer, TOKENIZE, tokenized)
    return True


def is_short(conversation: Sequence[Any]) -> bool:
    """Whether rendering these messages takes no time worth a thread."""
    if len(conversation) > SHORT_MESSAGES:
        return False
    return sum(_chars(message.get("content")) for message in conversation) <= SHORT_CHARS


def _chars(content: Any) -> int:
    """Of a text or of parts that are texts; anything else counts as long."""
    if isinstance(content, list) and len(content) <= SHORT_MESSAGES:
        return sum(_chars(part.get("text")) for part in content)
    if isinstance(content, str):
        return len(content)
    return SHORT_CHARS + 1
