"""The secret between edge, gateway and replicas: who is let in, on whose behalf, and what the others are told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from deployments.front import middlewares
from deployments.principal import ANYBODY, HEADER, SECRET_HEADER, Principal
from deployments.secret import (
    FOUND,
    HEALTH,
    NOT_FROM_EDGE,
    TOKEN_PATH,
    VARIABLE,
    Door,
    OnlyFromInside,
    own_secret,
    secret_headers,
    secret_of,
)
from tests.unit.asgi import client_of

TOKEN = "0123456789abcdef-the-cluster-s-token"
SECRET = "5ec2e7" * 10
ALICE = Principal("aaaaaaaa", "lab", ("models:llama",), 2, 3, "r1")
INSIDE = {SECRET_HEADER: SECRET}


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture
def service(token: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """This process belongs to a service with an edge; its secret."""
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setenv(TOKEN_PATH, str(token))
    return secret_of(token)


def scope_of(headers: Mapping[str, str], kind: str = "http", path: str = "/generate") -> Scope:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": kind, "path": path, "method": "GET", "query_string": b"", "headers": raw}


class Inner:
    """What lies behind the door: keeps what reached it."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached.append(scope["type"])
        await send({"type": f"{scope['type']}.passed"})


async def told(scope: Scope, door: Door | None = None) -> tuple[list[str], list[Message]]:
    """What reached the inside, and what was sent."""
    inner, sent = Inner(), list[Message]()

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await OnlyFromInside(inner, door or Door(SECRET), HEALTH)(scope, receive, send)
    return inner.reached, sent


def test_without_a_secret_everybody_is_let_in_and_no_principal_is_believed() -> None:
    door = Door(None)
    assert door.principal(scope_of({})) == ANYBODY
    assert door.principal(scope_of({HEADER: ALICE.to_header(), **INSIDE})) == ANYBODY


def test_who_has_the_secret_acts_for_the_principal_or_for_the_service() -> None:
    door = Door(SECRET)
    assert door.principal(scope_of({**INSIDE, HEADER: ALICE.to_header()})) == ALICE
    assert door.principal(scope_of(INSIDE)) == ANYBODY


@pytest.mark.parametrize("given", ["", SECRET[:-1], f"{SECRET}0", SECRET.upper(), f"{SECRET}\u00fc", "\u00fc"])
def test_a_wrong_secret_lets_nobody_in_whatever_principal_they_claim(given: str) -> None:
    claimed = {SECRET_HEADER: given, HEADER: Principal().to_header()}
    assert Door(SECRET).principal(scope_of(claimed)) is None


@pytest.mark.parametrize(
    ("headers", "found"), [({**INSIDE, HEADER: ALICE.to_header()}, ALICE), (INSIDE, ANYBODY), ({}, None)]
)
def test_who_asks_further_in_is_told_what_was_found_before(headers: dict[str, str], found: Principal | None) -> None:
    """The headers that a request came with are read once, and no header stands for what was found."""
    door, scope = Door(SECRET), scope_of({**headers, FOUND: "alice"})
    assert door.principal(scope) == found
    scope["headers"] = []
    assert Door(SECRET).principal({**scope}) == found


def test_a_principal_without_a_secret_is_nobody() -> None:
    assert Door(SECRET).principal(scope_of({HEADER: Principal().to_header()})) is None


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_requests_and_websockets_with_the_secret_pass(kind: str) -> None:
    reached, sent = await told(scope_of(INSIDE, kind))
    assert (reached, sent) == ([kind], [{"type": f"{kind}.passed"}])


@pytest.mark.parametrize("headers", [{}, {SECRET_HEADER: "wrong"}, {HEADER: Principal().to_header()}])
@pytest.mark.parametrize("path", ["/generate", "/metrics", "/", "/-/routes", "/-/healthz/", "/-/healthz/../metrics"])
async def test_others_get_the_same_answer_whatever_they_ask(path: str, headers: dict[str, str]) -> None:
    reached, sent = await told(scope_of(headers, path=path))
    assert reached == []
    start, body = sent
    assert start["status"] == 401
    length = str(len(NOT_FROM_EDGE) + 1).encode()
    assert start["headers"] == [(b"content-length", length), (b"content-type", b"text/plain; charset=utf-8")]
    assert body["body"] == f"{NOT_FROM_EDGE}\n".encode()


async def test_a_websocket_of_others_is_closed_before_it_opens() -> None:
    assert await told(scope_of({}, "websocket")) == ([], [{"type": "websocket.close", "code": 1008}])


async def test_health_and_the_lifespan_need_no_secret() -> None:
    assert (await told(scope_of({}, path=HEALTH)))[0] == ["http"]
    reached, sent = await told({"type": "lifespan"})
    assert (reached, sent) == (["lifespan"], [{"type": "lifespan.passed"}])


async def test_what_serve_is_given_guards_an_app(service: str) -> None:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse("inside")

    app = Starlette(routes=[Route("/x", answer), Route(HEALTH, answer)], middleware=middlewares())
    async with client_of(app) as client:
        assert (await client.get("/x")).status_code == 401
        assert (await client.get("/x", headers={SECRET_HEADER: service})).text == "inside"
        assert (await client.get(HEALTH)).text == "inside"


def test_the_secret_is_asked_for_only_where_the_environment_says_so(
    service: str, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own_secret() == service
    for other in ("0", "", "true"):
        monkeypatch.setenv(VARIABLE, other)
        assert own_secret() is None
    monkeypatch.delenv(VARIABLE)
    assert own_secret() is None


def test_a_service_whose_token_is_gone_does_not_open_its_door(service: str, token: Path) -> None:
    token.unlink()
    with pytest.raises(FileNotFoundError):
        own_secret()
    with pytest.raises(FileNotFoundError):
        middlewares()


def test_the_secret_follows_from_the_token_and_not_from_the_space_around_it(token: Path) -> None:
    secret = secret_of(token)
    assert len(secret) == 64
    token.write_text(f" {TOKEN}\n")
    assert secret_of(token) == secret
    token.write_text(f"{TOKEN}0")
    assert secret_of(token) != secret


def test_a_process_of_the_service_sends_the_secret_and_nothing_without_a_token(token: Path, tmp_path: Path) -> None:
    assert secret_headers(token) == {SECRET_HEADER: secret_of(token)}
    assert secret_headers(tmp_path / "missing") == {}


async def test_the_token_appears_nowhere(service: str, token: Path) -> None:
    _, sent = await told(scope_of({SECRET_HEADER: TOKEN}), Door(service))
    shown = [service, repr(secret_headers(token)), repr(middlewares()), repr(Door(service)), repr(sent)]
    assert sent[0]["status"] == 401
    assert not [text for text in shown if TOKEN in text]
