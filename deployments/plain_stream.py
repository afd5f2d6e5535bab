"""Streams of plain chat requests, written without a model object for each token.

vLLM validates, nests and serialises three pydantic objects for every token of a stream (about 18 us), and where the
engine has a tool parser it copies the whole answer so far for each. Between the first token and the last nothing of a
plain answer changes but its text, so those events are written from the first one; everything else is vLLM's own
generator, which goes on where it stopped. What is sent is the same to the byte: tests/serve/test_plain_stream.py.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from json.encoder import encode_basestring
from typing import Any

logger = logging.getLogger(__name__)

EXPECTED = ("request", "result_generator", "request_id", "model_name", "conversation", "tokenizer", "request_metadata")
"""The first parameters of vLLM's generator, as it was when this was tried (0.26 to 0.29)."""
PER_TOKEN = ("logprobs", "tools", "echo", "return_token_ids", "return_prompt_text", "use_beam_search")
"""Fields of a request that add to each event or take its text apart."""

Generator = Callable[..., AsyncGenerator[str, None]]


def write_plain_streams(serving: Any) -> bool:
    """Have an OpenAIServingChat stream plain requests this way; False, and nothing changed, if it is another vLLM's."""
    original = getattr(serving, "chat_completion_stream_generator", None)
    if original is None or tuple(inspect.signature(original).parameters)[: len(EXPECTED)] != EXPECTED:
        logger.info("this vLLM streams chat answers in another way than the one known here; it keeps its own")
        return False
    if _reads_tokens(serving) or getattr(serving, "enable_log_outputs", False):
        return False

    def generator(request: Any, results: AsyncIterator[Any], *rest: Any, **named: Any) -> AsyncGenerator[str, None]:
        if not is_plain(request) or getattr(serving, "enable_force_include_usage", False):
            return original(request, results, *rest, **named)  # type: ignore[no-any-return]
        feed = _Feed(results)
        return _stream(original(request, feed, *rest, **named), feed)

    serving.chat_completion_stream_generator = generator
    return True


def _reads_tokens(serving: Any) -> bool:
    """Whether a parser goes over every token: one of thoughts, or one that finds a model's markup by its tokens."""
    parsers = getattr(serving, "parser_cls", None)
    tools = getattr(parsers, "tool_parser_cls", None)
    thoughts = getattr(parsers, "reasoning_parser_cls", None)
    return thoughts is not None or bool(getattr(tools, "engine_based_streaming", False))


def is_plain(request: Any) -> bool:
    """Whether every event between the first token and the last differs in its text alone."""
    options = getattr(request, "stream_options", None)
    return (
        getattr(request, "n", 1) in (None, 1)
        and not any(getattr(request, name, None) for name in PER_TOKEN)
        and getattr(request, "tool_choice", None) in (None, "none")
        and getattr(request, "include_reasoning", True)
        and not (options and options.continuous_usage_stats)
    )


class _Feed:
    """The engine's results as vLLM's generator gets them: all, or those that `_stream` did not write itself."""

    def __init__(self, results: AsyncIterator[Any]) -> None:
        self._results = results
        self._unwritten: list[int] = []
        self._back: Any = None
        self._error: Exception | None = None
        self.text = ""
        """Of the last result that went to the generator, if it was of one output."""

    def __aiter__(self) -> _Feed:
        return self

    async def __anext__(self) -> Any:
        if self._error:
            error, self._error = self._error, None
            raise error
        result, self._back = self._back or await anext(self._results), None
        output = result.outputs[0] if len(result.outputs) == 1 else None
        self.text = output.text if output else ""
        if output and self._unwritten:  # the generator counts tokens, and must count those as well
            output.token_ids = [*self._unwritten, *output.token_ids]
            self._unwritten = []
        return result

    async def aclose(self) -> None:
        """End the engine's request, if it has not ended: vLLM's generator leaves that to the garbage collector."""
        close = getattr(self._results, "aclose", None)
        if close:
            await close()

    async def middle(self) -> AsyncGenerator[str, None]:
        """The texts of the results that follow, until one is the generator's again."""
        try:
            async for result in self._results:
                outputs = result.outputs
                if len(outputs) != 1 or outputs[0].finish_reason is not None or not outputs[0].text:
                    self._back = result
                    return
                self._unwritten += outputs[0].token_ids
                yield outputs[0].text
        except Exception as error:  # it is the generator that words it for the client
            self._error = error


async def _stream(original: AsyncGenerator[str, None], feed: _Feed) -> AsyncGenerator[str, None]:
    try:
        async for event in original:
            yield event
            around = _around(event, feed.text)
            if around:
                before, after = around
                async for text in feed.middle():
                    yield before + encode_basestring(text) + after
    finally:
        await original.aclose()
        await feed.aclose()


def _around(event: str, text: str) -> tuple[str, str] | None:
    """What stands before and after the text in an event of the middle; None if the event is of another kind."""
    if not text or '"finish_reason":null' not in event or '"role"' in event:
        return None
    mark = '"delta":{"content":'
    before, found, rest = event.partition(mark)
    written = encode_basestring(text)
    if not found or not rest.startswith(written):
        return None
    return before + mark, rest[len(written) :]
