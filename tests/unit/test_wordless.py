"""Lines of others' logs, without what clients say."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from deployments.principal import ANYBODY, CURRENT, Principal
from deployments.progress import LOGGING_CONFIG
from deployments.wordless import Wordless, WordlessVllm, keep_words_out

WORDS = "a prompt of somebody"


def record(
    name: str, message: str, *values: object, level: int = logging.ERROR, fails: bool = False
) -> logging.LogRecord:
    found = None
    if fails:
        try:
            raise ValueError(WORDS)
        except ValueError as error:
            found = (ValueError, error, error.__traceback__)
    return logging.LogRecord(name, level, "chat_utils.py", 7, message, values, found)


def told(line: logging.LogRecord) -> str:
    return logging.Formatter().format(line)


@pytest.fixture
def asked() -> Iterator[None]:
    token = CURRENT.set(Principal("alice", label="req-1"))
    yield
    CURRENT.reset(token)


def test_a_request_that_failed_is_told_of_by_type_and_place() -> None:
    line = record("ray.serve", "Request failed.", fails=True)
    assert Wordless().filter(line)
    assert told(line).startswith('Request failed {"error": "ValueError", "at": ["test_wordless.py:')
    assert WORDS not in told(line)
    other = record("ray.serve", f"Request failed: {WORDS}", level=logging.WARNING)
    Wordless().filter(other)
    assert told(other) == "Request failed"


def test_what_serve_says_of_a_start_that_failed_stays() -> None:
    line = record("ray.serve", "Exception in __init__", fails=True)
    Wordless().filter(line)
    assert WORDS in told(line)


def test_errors_that_nobody_took_are_told_of_by_type_and_place() -> None:
    line = record("asyncio", f"Task exception was never retrieved\nfuture: <{WORDS}>", fails=True)
    Wordless().filter(line)
    assert WORDS not in told(line)
    assert told(line).startswith("Task exception was never retrieved {")


def test_vllms_words_about_a_request_are_those_of_its_code(asked: None) -> None:
    line = record("vllm.anything", "Tool call %r is odd", WORDS, level=logging.INFO)
    WordlessVllm().filter(line)
    assert told(line) == "Tool call %r is odd"
    whole = record("vllm.anything", f"odd: {WORDS}", fails=True)
    WordlessVllm().filter(whole)
    assert told(whole).startswith("chat_utils.py:7 has a word on a request {")
    assert WORDS not in told(whole)


def test_vllms_threads_do_not_know_the_request_and_say_no_more() -> None:
    assert CURRENT.get() is ANYBODY
    line = record("vllm.entrypoints.chat_utils", "Tool call %r is odd", WORDS, level=logging.WARNING)
    WordlessVllm().filter(line)
    assert told(line) == "Tool call %r is odd"
    start = record("vllm.v1.worker", "Loading weights took %s s", 3, level=logging.INFO)
    WordlessVllm().filter(start)
    assert told(start) == "Loading weights took 3 s"


def test_vllm_does_not_say_that_nothing_is_traced() -> None:
    line = record("vllm.tracing.utils", "Received a request with trace context but tracing is disabled")
    assert not WordlessVllm().filter(line)


def test_the_filters_are_where_the_lines_go_by() -> None:
    keep_words_out()
    keep_words_out()
    for name in ("ray.serve", "uvicorn.error", "asyncio"):
        (found,) = (each for each in logging.getLogger(name).filters if isinstance(each, Wordless))
        logging.getLogger(name).removeFilter(found)
    handlers = json.loads(LOGGING_CONFIG.read_text())["handlers"]
    assert all(handler["filters"] == ["wordless"] for handler in handlers.values())
