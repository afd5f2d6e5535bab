"""Calls between deployments: the side that is called knows for whom it works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from contextvars import copy_context
from typing import Any

import pytest

from deployments.errors import Overloaded
from deployments.on_behalf import OnBehalf, assumed, principal_of
from deployments.principal import ANYBODY, CURRENT, FIELD, Principal

ALICE = Principal("aaaaaaaa", "lab", ("models:llama", "rag"), 2, 3, "r1")
BOB = Principal("bbbbbbbb", scopes=("tribunal",))


class Called(OnBehalf):
    """Tells for whom it worked. step: if given, a call waits for it to be set."""

    def __init__(self) -> None:
        self.step: asyncio.Event | None = None
        self.closed_for: list[str] = []

    async def work(self, *arguments: object) -> tuple[Principal, tuple[object, ...]]:
        if self.step:
            await self.step.wait()
        return CURRENT.get(), arguments

    async def fail(self) -> None:
        raise Overloaded("full", 7)

    async def count(self, until: int) -> AsyncIterator[tuple[str, int]]:
        try:
            for number in range(until):
                yield CURRENT.get().key, number
                await asyncio.sleep(0)
        finally:
            self.closed_for.append(CURRENT.get().key)


def apart(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """In a context of its own, as each call to a replica is."""
    return asyncio.create_task(work, context=copy_context())


async def test_a_method_works_for_whom_it_was_called() -> None:
    principal, arguments = await apart(Called().corral_called(ALICE.to_json(), "work", 1, "two"))
    assert (principal, arguments) == (ALICE, (1, "two"))
    assert CURRENT.get() == ANYBODY


async def test_calls_at_once_do_not_see_each_other() -> None:
    called = Called()
    called.step = asyncio.Event()
    calls = [apart(called.corral_called(each.to_json(), "work")) for each in (ALICE, BOB, ALICE)]
    await asyncio.sleep(0)
    called.step.set()
    assert [principal for principal, _ in await asyncio.gather(*calls)] == [ALICE, BOB, ALICE]


async def test_what_a_method_raises_arrives_as_it_is() -> None:
    with pytest.raises(Overloaded, match="full") as caught:
        await apart(Called().corral_called(ALICE.to_json(), "fail"))
    assert caught.value.retry_after_s == 7


async def test_a_stream_works_for_whom_it_was_called_to_its_end() -> None:
    called = Called()

    async def read() -> list[tuple[str, int]]:
        return [item async for item in called.corral_streamed(ALICE.to_json(), "count", 3)]

    assert await apart(read()) == [("aaaaaaaa", 0), ("aaaaaaaa", 1), ("aaaaaaaa", 2)]
    assert called.closed_for == ["aaaaaaaa"]


async def test_a_stream_that_is_closed_closes_what_it_reads() -> None:
    called = Called()

    async def read_one() -> Any:
        async with aclosing(called.corral_streamed(BOB.to_json(), "count", 3)) as items:  # type: ignore[type-var]
            return await anext(items)

    assert await apart(read_one()) == ("bbbbbbbb", 0)
    assert called.closed_for == ["bbbbbbbb"]


@pytest.mark.parametrize("damaged", [{}, {"key": "a"}, {**ALICE.to_json(), "more": 1}])
async def test_a_call_without_a_whole_principal_does_nothing(damaged: dict[str, Any]) -> None:
    called = Called()
    with pytest.raises((KeyError, TypeError)):
        await apart(called.corral_called(damaged, "work"))
    assert CURRENT.get() == ANYBODY


def test_a_principal_comes_back_from_the_header_as_it_was() -> None:
    named = Principal("aaaaaaaa", "lab \u00fc", ("rag:handbook",), 0.5, 2, "r")
    assert Principal.from_header(named.to_header()) == named
    assert named.to_header().isascii()
    assert "\n" not in named.to_header()


@pytest.mark.parametrize(
    ("scopes", "all_models", "llama", "some"),
    [
        (("admin",), True, True, True),
        (("models",), True, True, True),
        (("models:llama",), False, True, True),
        (("models:qwen",), False, False, True),
        (("tribunal", "rag:llama"), False, False, False),
        ((), False, False, False),
    ],
)
def test_what_a_principal_may(scopes: tuple[str, ...], all_models: bool, llama: bool, some: bool) -> None:
    who = Principal(scopes=scopes)
    assert (who.may("models"), who.may("models", "llama"), who.may_some("models")) == (all_models, llama, some)


async def test_a_body_says_for_whom_it_is_as_often_as_it_is_asked() -> None:
    """A bulk item that makes room for a person is asked again."""
    body = {"model": "m", FIELD: ALICE.to_json()}

    async def ask() -> tuple[dict[str, Any], Principal]:
        return assumed(body), CURRENT.get()

    told = [await apart(ask()) for _ in range(2)]
    assert told == [({"model": "m"}, ALICE)] * 2
    assert principal_of(body) == ALICE


async def test_a_body_that_says_nobody_leaves_who_asks_as_it_is() -> None:
    CURRENT.set(BOB)
    assert assumed({"model": "m"}) == {"model": "m"}
    assert CURRENT.get() == BOB
    assert principal_of({}) == ANYBODY
