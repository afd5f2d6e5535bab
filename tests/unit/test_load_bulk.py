"""`python -m loadtests.bulk` against small real servers: what fails is told, and ends."""

from __future__ import annotations

import argparse
import json
import urllib.error
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from loadtests.bulk import beside_bulk, first_token_s
from tests.unit.load_bench import on_a_thread
from tests.unit.load_client_fakes import DONE, MODEL, ROLE, Endpoint, delta

GIVEN = argparse.Namespace(model=MODEL, prompts=2, seed=1, max_tokens=4)
Answer = Callable[[web.Request], Awaitable[web.Response]]


def service(bulk: Answer) -> Endpoint:
    return Endpoint(handlers={"/bulk": bulk}, stream=lambda _: ROLE + delta(content="a") + DONE)


async def done(_: web.Request) -> web.Response:
    return web.Response(text=json.dumps({"summary": {"total": 4, "failed": 0, "completion_tokens": 16}}))


async def broken(_: web.Request) -> web.Response:
    return web.Response(status=500)


def test_a_person_is_timed_beside_a_bulk_call() -> None:
    with on_a_thread(service(done)) as address:
        assert min(beside_bulk(address, GIVEN)) > 0


def test_a_bulk_call_that_fails_ends_it_and_is_told() -> None:
    with on_a_thread(service(broken)) as address, pytest.raises(urllib.error.HTTPError, match="500") as told:
        beside_bulk(address, GIVEN)
    told.value.close()


def test_an_answer_without_text_has_no_first_token() -> None:
    """Also with an empty text, as the last event of some servers has."""
    silent = Endpoint(stream=lambda _: ROLE + delta(content="") + DONE)
    with on_a_thread(silent) as address, pytest.raises(RuntimeError, match="an answer of small has no text"):
        first_token_s(address, MODEL, "hello")
