"""The middleware alone, around apps of a few lines."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware import Admitted, BoundBody, CancelOnDisconnect, LastResort, OwnDeadline
from deployments.principal import CURRENT, Principal
from deployments.secret import Door
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


def asked(**headers: str) -> Scope:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "path": "/generate", "headers": raw, "state": {"request_id": "r-1"}}


async def sent_to(app: ASGIApp, scope: Scope) -> tuple[int, Any]:
    """Status and JSON of the answer."""
    got: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        got.append(message)

    await app(scope, receive, send)
    return got[0]["status"], json.loads(got[1]["body"])


async def test_a_request_ends_at_its_own_deadline() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    status, body = await sent_to(OwnDeadline(app), asked(x_request_timeout="0.01"))
    assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
    status, body = await sent_to(OwnDeadline(app), asked(x_request_timeout="never"))
    assert (status, body["error"]["param"]) == (400, "x-request-timeout")


async def test_only_who_has_the_secret_comes_in_and_says_for_whom() -> None:
    seen: list[Principal] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(CURRENT.get())
        await answer(send)

    door = Admitted(app, Door("5ec2e7"))
    bob = Principal("bob", "physics", ("models",), 2, 3, "uid-1")
    for wrong in ({}, {"x_corral_secret": "5ec2e8"}, {"x_corral_principal": bob.to_header()}):
        status, body = await sent_to(door, asked(**wrong))
        assert (status, body["error"]["code"]) == (401, "not_from_edge")
    assert seen == []
    for told, key in (({"x-corral-principal": bob.to_header()}, "bob"), ({}, "")):
        call = Call(door, "/generate", [b""], {"x-corral-secret": "5ec2e7", **told})
        await asyncio.wait_for(call.task, 1)
        assert seen.pop().key == key
    for broken in ("", "{", "[]", '{"scopes": 1}'):
        status, _ = await sent_to(door, asked(x_corral_secret="5ec2e7", x_corral_principal=broken))
        assert status == 401
