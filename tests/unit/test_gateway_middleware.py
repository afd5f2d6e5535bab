"""The middleware alone, around apps of a few lines."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware import BoundBody, CancelOnDisconnect, LastResort
from tests.unit.asgi import Call


async def answer(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


async def test_work_after_the_answer_goes_on_when_the_client_leaves() -> None:
    tidied = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await answer(send)
        await asyncio.sleep(0.01)
        tidied.set()

    call = Call(CancelOnDisconnect(app), "/", [b""], {})
    call.leave()
    await asyncio.wait_for(call.task, 1)
    assert tidied.is_set()


async def test_the_app_that_listens_for_the_disconnect_hears_it_or_is_cancelled() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    call = Call(CancelOnDisconnect(app), "/", [b"a", b"b"], {})
    await asyncio.sleep(0)
    assert not call.task.done()
    call.leave()
    await asyncio.wait_for(call.task, 1)


async def test_the_disconnect_of_a_client_may_come_an_hour_after_its_body() -> None:
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        heard.append((await receive())["type"])

    call = Call(BoundBody(app, 10, {}, timeout_s=0.01), "/", [b"x"], {})
    await asyncio.sleep(0.03)
    call.leave()
    await asyncio.wait_for(call.task, 1)
    assert heard == ["http.disconnect"]


async def test_a_failure_after_the_answer_began_cuts_it_off() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("secret")

    call = Call(LastResort(app), "/", [b""], {})
    with pytest.raises(KeyError):
        await call.task
    assert call.sent.qsize() == 1


@pytest.mark.parametrize("wrap", [CancelOnDisconnect, LastResort, lambda app: BoundBody(app, 1, {}, 1)])
async def test_what_is_not_http_passes_untouched(wrap: type[CancelOnDisconnect]) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def none() -> dict[str, str]:
        return {}

    wrapped: ASGIApp = wrap(app)
    await wrapped({"type": "lifespan"}, none, lambda _: none())  # type: ignore[arg-type, return-value]
    assert seen == ["lifespan"]
