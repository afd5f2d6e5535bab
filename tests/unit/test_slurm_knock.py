"""What a stranger's calls of gRPC are told, and which of it is no leak: against a real server of gRPC on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from tests.slurm.knock import CALLS, GRPCS_OWN, call
from tests.slurm.strangers import EVERYBODYS, Calls, Port, Visit

HEALTH, CHANNELZ, REFLECTION = GRPCS_OWN
SECRET = "0123abcd"
EDGE = ("10.0.0.1", 12000)
Answers = Mapping[str, bytes]


class Served(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers these methods, one of them as a stream, and no other without a token, which nobody has."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.asked: dict[str, list[bytes]] = {}

    def service(self, details: Any) -> Any:
        method: str = details.method
        if method not in self._answers:
            return grpc.unary_unary_rpc_method_handler(_refuse)
        answer = self._answers[method]
        if method == REFLECTION:
            return grpc.stream_stream_rpc_method_handler(
                lambda asked, _: self._note(method, list(asked), iter([answer]))
            )
        return grpc.unary_unary_rpc_method_handler(lambda asked, _: self._note(method, [asked], answer))

    def _note(self, method: str, asked: list[bytes], answer: Any) -> Any:
        self.asked[method] = asked
        return answer


def _refuse(_: bytes, context: Any) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")


@contextmanager
def serving(handler: Served) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    port: int = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def told(answers: Answers) -> Calls:
    with serving(Served(answers)) as port:
        return Calls(Port("n1", "127.0.0.1", port, "raylet"), call("127.0.0.1", port))


def leaks(calls: Calls) -> list[str]:
    return Visit([], [calls], [], [], [], {}).leaks(EDGE, [SECRET])


def test_the_methods_that_are_everybodys_are_the_ones_that_are_asked() -> None:
    assert set(EVERYBODYS) == set(GRPCS_OWN)
    assert not set(EVERYBODYS) & set(CALLS)


def test_what_grpc_itself_answers_is_seen_and_let_pass() -> None:
    answers = {HEALTH: b"\x08\x01", CHANNELZ: b"", REFLECTION: b"services"}
    handler = Served(answers)
    with serving(handler) as port:
        calls = Calls(Port("n1", "127.0.0.1", port, "raylet"), call("127.0.0.1", port))
    assert calls.answered == set(EVERYBODYS)
    assert {method: said for method, (_, said) in calls.told.items() if said} == {
        HEALTH: "\x08\x01",
        REFLECTION: "services",
    }
    assert handler.asked == {method: [message] for method, message in GRPCS_OWN.items()}
    assert {calls.codes[method] for method in CALLS} == {"UNAUTHENTICATED"}
    assert leaks(calls) == []


def test_nobody_has_to_have_grpcs_own() -> None:
    calls = told({})
    assert calls.answered == set()
    assert leaks(calls) == []


@pytest.mark.parametrize("method", CALLS)
def test_any_other_method_that_answers_is_a_leak(method: str) -> None:
    (leak,) = leaks(told({method: b"", HEALTH: b""}))
    assert f"'{method}': 'OK'" in leak


def test_a_secret_in_what_is_everybodys_is_a_leak() -> None:
    (leak,) = leaks(told({REFLECTION: f"a {SECRET} b".encode()}))
    assert leak.endswith(f"a secret in {REFLECTION}")


@pytest.mark.parametrize("status", ["UNIMPLEMENTED", "UNAVAILABLE"])
@pytest.mark.parametrize("change", [lambda _: True, lambda method: method == CALLS[0]], ids=["all", "one"])
def test_only_a_refusal_for_want_of_a_token_is_one(status: str, change: Callable[[str], bool]) -> None:
    """Methods that are not there beside some that refuse are fine; a port that has none of them tells nothing."""
    codes = {method: (status if change(method) else "UNAUTHENTICATED", "") for method in CALLS}
    calls = Calls(Port("n1", "127.0.0.1", 1, "raylet"), codes)
    assert calls.harmless == (status == "UNIMPLEMENTED" and not change(CALLS[1]))
