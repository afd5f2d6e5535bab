"""Following a tribunal: every envelope once, across broken connections, and nothing left running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from app.talk import RefusedError, UnreachableError
from app.tribunal.talk import PAUSES_S, follow
from deployments.tribunal.events import EventType
from tests.unit.tribunal_stream import WHOLE, Service, drafted, envelopes, failing, refusal, result

ASK = {"question": "Which nodes are free?"}
POST, STOPPED = "POST /v1/tribunal", "DELETE /v1/tribunal/tri-1"


def resumed(after: int) -> str:
    return f"GET /v1/tribunal/tri-1?after={after}"


def heard(service: Service, pauses: list[float] | None = None) -> list[dict[str, Any]]:
    return list(follow(service.talk(), ASK, pause=(pauses if pauses is not None else []).append))


def test_every_envelope_comes_in_order() -> None:
    service = Service()
    assert heard(service) == WHOLE
    assert service.asked == [POST]
    assert service.bodies == [{**ASK, "stream": True, "resume_s": 30}]


def test_a_broken_connection_is_taken_up_after_the_last_envelope() -> None:
    service, pauses = Service(breaks=[5, 0, 3], half=40), list[float]()
    assert heard(service, pauses) == WHOLE
    assert service.asked == [POST, resumed(5), resumed(5), resumed(8)]
    assert pauses == [PAUSES_S[0], PAUSES_S[1], PAUSES_S[0]]


def test_what_is_told_twice_is_heard_once() -> None:
    service = Service(script=[*WHOLE[:3], *WHOLE])
    assert heard(service) == WHOLE


def test_a_stream_that_ends_too_early_is_taken_up() -> None:
    service = Service(script=WHOLE[:4])
    assert list(follow(service.talk(), ASK, pause=lambda _: service.script.extend(WHOLE[4:]))) == WHOLE
    assert service.asked == [POST, resumed(4)]


def test_coming_back_is_tried_so_often_and_no_more() -> None:
    service, pauses = Service(breaks=[2, *[0] * 9]), list[float]()
    with pytest.raises(UnreachableError, match="does not answer: connection reset"):
        heard(service, pauses)
    assert service.asked == [POST, *[resumed(2)] * len(PAUSES_S), STOPPED]
    assert pauses == list(PAUSES_S)


def test_a_service_that_is_away_for_a_moment() -> None:
    service = Service(breaks=[2], refuses={"GET": [refusal(503, "No gateway is there.")]})
    assert heard(service) == WHOLE
    assert service.asked == [POST, resumed(2), resumed(2)]


def test_a_tribunal_that_is_kept_no_more() -> None:
    service = Service(breaks=[2], refuses={"GET": [refusal(404, "No run tri-1.")], "DELETE": [refusal(404, "No run.")]})
    with pytest.raises(UnreachableError, match=r"reset; it cannot be resumed: No run tri-1\."):
        heard(service)
    assert service.asked == [POST, resumed(2), STOPPED]


def test_a_fault_on_the_way_is_no_end_of_the_tribunal() -> None:
    error = {"message": "The way is gone.", "type": "server_error"}
    word = {"v": 1, "id": "tri-1", "seq": 3, "type": "error", "error": error}
    service = Service(breaks=[2], last_word=word)
    assert heard(service) == WHOLE
    assert service.asked == [POST, resumed(2)]
    with pytest.raises(UnreachableError, match=r"^The way is gone\.$"):
        heard(Service(breaks=[0], last_word=word))


def test_a_connection_that_breaks_before_anything_came_is_no_answer() -> None:
    service = Service(breaks=[0])
    with pytest.raises(UnreachableError, match="connection reset"):
        heard(service)
    assert service.asked == [POST]


@pytest.mark.parametrize(("status", "error"), [(400, RefusedError), (429, RefusedError), (503, UnreachableError)])
def test_what_is_refused_at_once(status: int, error: type[Exception]) -> None:
    service = Service(refuses={"POST": [refusal(status, "No: why.")]})
    with pytest.raises(error, match=r"^No: why\.$"):
        heard(service)
    assert service.asked == [POST]


@pytest.mark.parametrize(
    ("kind", "error"),
    [("invalid_request_error", RefusedError), ("rate_limit_error", RefusedError), ("server_error", UnreachableError)],
)
def test_a_tribunal_that_ends_with_an_error(kind: str, error: type[Exception]) -> None:
    service = Service(script=failing("2 of 4 members drafted.", kind))
    with pytest.raises(error, match=r"^2 of 4 members drafted\.$"):
        heard(service)
    assert service.asked == [POST]


def test_leaving_early_stops_it() -> None:
    service = Service()
    with closing(follow(service.talk(), ASK)) as told:
        next(told)
    assert service.asked == [POST, STOPPED]


def test_ctrl_c_while_waiting_stops_it() -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    service = Service(breaks=[3])
    with pytest.raises(KeyboardInterrupt):
        list(follow(service.talk(), ASK, pause=interrupt))
    assert service.asked == [POST, STOPPED]


def test_ctrl_c_while_reading_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Iterator[str]:
        yield from ["id: 1\ndata: " + '{"v": 1, "id": "tri-1", "seq": 1, "type": "step.started"}' + "\n\n"]
        raise KeyboardInterrupt

    monkeypatch.setattr(httpx.Response, "iter_text", interrupted)
    service = Service()
    with pytest.raises(KeyboardInterrupt):
        list(follow(service.talk(), ASK))
    assert service.asked == [POST, STOPPED]


def test_a_service_that_is_gone_need_not_hear_of_it() -> None:
    service = Service(
        breaks=[2], refuses={"GET": [refusal(503, "Away.") for _ in PAUSES_S], "DELETE": [refusal(503, "Away.")]}
    )
    with pytest.raises(UnreachableError, match="Away"):
        heard(service)
    assert service.asked[-1] == STOPPED


@pytest.mark.parametrize("text", ["a\u2028b", "a\x85b", "a\rb", "data: x\n\ndata: y"])
def test_texts_with_other_ends_of_lines_come_whole(text: str) -> None:
    script = envelopes(drafted(1, "a", text), (EventType.RESULT, {"result": result()}))
    assert heard(Service(script=script))[0]["text"] == text
