"""Filters that keep what clients and models say out of others' logs: Serve's, vLLM's, uvicorn's and asyncio's.

An error's message often quotes what was sent, and each of these writes down every error that a request ends with.
"""

from __future__ import annotations

import json
import logging

from deployments.principal import ANYBODY, CURRENT
from deployments.request_log import fault

SERVE, FAILED = "ray.serve", "Request failed"
QUOTING = (SERVE, "uvicorn.error", "asyncio")
ABOUT_REQUESTS = tuple(f"vllm.{name}" for name in (
    "entrypoints", "renderers", "parser", "reasoning", "tool_parsers", "inputs", "multimodal", "sampling_params",
    "v1.structured_output", "v1.engine.input_processor",
))  # fmt: skip
"""Where vLLM reads requests, also in threads that do not know which one."""
OWN_TRACING = "vllm.tracing.utils"
"""It warns of requests with a trace that tracing is off, where only vLLM's own is."""


class Wordless(logging.Filter):
    """Leaves of an error its type and the places in the code. Serve's own faults, as at a start, stay as they are."""

    def filter(self, record: logging.LogRecord) -> bool:
        of_request = str(record.msg).startswith(FAILED)
        if (record.exc_info and record.exc_info[1] and record.name != SERVE) or of_request:
            _without_words(record, FAILED if of_request else str(record.msg).partition("\n")[0])
        return True


class WordlessVllm(logging.Filter):
    """Leaves of a line about a request what vLLM's code says, without what is put into it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if CURRENT.get() is not ANYBODY or (
            record.levelno >= logging.WARNING and record.name.startswith(ABOUT_REQUESTS)
        ):
            plain = str(record.msg) if record.args else f"{record.filename}:{record.lineno} has a word on a request"
            _without_words(record, plain)
        return record.name != OWN_TRACING


def _without_words(record: logging.LogRecord, message: str) -> None:
    error = record.exc_info[1] if record.exc_info else None
    record.msg = f"{message} {json.dumps(fault(error))}" if error else message
    record.args, record.exc_info, record.exc_text = (), None, None


def keep_words_out() -> None:
    """Have these loggers of this process do so; their lines are written by them directly, so a filter sees each."""
    for name in QUOTING:
        logger = logging.getLogger(name)
        if not any(isinstance(each, Wordless) for each in logger.filters):
            logger.addFilter(Wordless())
