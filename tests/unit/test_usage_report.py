"""Usage reports: no token is lost or sent twice, however long nobody takes them, and in bounded memory."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.metering import Outcome, Used
from deployments.principal import CURRENT, SECRET_HEADER, Principal
from deployments.usage_report import BATCH_EVENTS, LONGEST_WAIT_S, Batch, UsageReporter, http_sender
from tests.waiting import eventually


class Receiver:
    """Takes batches as the service does, one of each id. faults: of the next ones, "refused" or "lost" answers."""

    def __init__(self, *faults: str) -> None:
        self.faults = deque(faults)
        self.asked: list[Batch] = []
        self.taken: dict[str, Batch] = {}
        self.principals: list[Principal] = []

    async def __call__(self, batch: Batch) -> None:
        self.asked.append(batch)
        self.principals.append(CURRENT.get())
        fault = self.faults.popleft() if self.faults else ""
        if fault != "refused":
            self.taken.setdefault(batch.id, batch)
        if fault:
            raise ConnectionError(f"the answer was {fault}")

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for batch in self.taken.values() for event in batch.events]

    def tokens(self) -> Counter[tuple[str, str]]:
        """By key and model."""
        counted: Counter[tuple[str, str]] = Counter()
        for event in self.events:
            counted[event["key"], event["model"]] += event["prompt_tokens"] + event["completion_tokens"]
        return counted


class Waits:
    """A sleep that takes no time; it does not end while `held`."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, delay_s: float) -> None:
        self.asked.append(delay_s)
        await self.free.wait()
        await asyncio.sleep(0)


def used(request: str = "r1", key: str = "ada", count: int = 1, outcome: Outcome = "done", model: str = "m") -> Used:
    principal = Principal(key=key, group=f"{key}s", request=request)
    return Used(principal, model, 10 * count, count, 0, outcome, None, 1)


def reporter(receiver: Any, waits: Waits | None = None, **options: Any) -> UsageReporter:
    return UsageReporter(receiver, sleep=waits or Waits(), jitter=lambda: 0, **options)


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def test_the_wire_form_of_an_event() -> None:
    receiver = Receiver()
    reports = reporter(receiver)
    reports.report(used())
    await settle()
    event = {"request": "r1", "key": "ada", "group": "adas", "model": "m"}
    assert receiver.events == [{**event, "prompt_tokens": 10, "completion_tokens": 1, "outcome": "done"}]
    await reports.close()


async def test_parts_of_a_request_are_one_event_for_each_model() -> None:
    """The prompts of one call for embeddings, say."""
    receiver = Receiver()
    reports = reporter(receiver)
    for outcome in ("done", "failed", "cancelled"):
        reports.report(used(outcome=outcome))
    reports.report(used(model="other"))
    reports.report(used(request="r2"))
    await reports.close()
    found = [(event["request"], event["model"], event["prompt_tokens"], event["outcome"]) for event in receiver.events]
    assert found == [("r1", "m", 30, "failed"), ("r1", "other", 10, "done"), ("r2", "m", 10, "done")]


async def test_what_comes_within_an_interval_is_one_batch() -> None:
    receiver, waits = Receiver(), Waits()
    waits.free.clear()
    reports = reporter(receiver, waits, interval_s=0.5)
    for number in range(3):
        reports.report(used(f"r{number}"))
        await settle()
    assert (receiver.asked, waits.asked) == ([], [0.5])
    waits.free.set()
    await settle()
    assert [len(batch.events) for batch in receiver.asked] == [3]
    reports.report(used("r4"))
    await settle()
    assert [len(batch.events) for batch in receiver.asked] == [3, 1]
    await reports.close()


async def test_nothing_runs_while_nothing_is_held() -> None:
    receiver, waits = Receiver(), Waits()
    reports = reporter(receiver, waits)
    reports.report(used())
    await settle()
    slept = len(waits.asked)
    await settle()
    assert len(waits.asked) == slept
    await reports.close()
    assert len(receiver.asked) == 1


async def test_it_is_sent_in_nobodys_name() -> None:
    receiver = Receiver()
    reports = reporter(receiver)
    CURRENT.set(Principal(key="ada"))
    reports.report(used())
    await settle()
    assert receiver.principals == [Principal()]
    await reports.close()


async def test_a_batch_that_failed_is_sent_again_as_it_was() -> None:
    """The receiver may have it: only its answer was lost."""
    receiver = Receiver("lost", "refused")
    waits = Waits()
    reports = reporter(receiver, waits, interval_s=1)
    reports.report(used())
    await eventually(lambda: bool(receiver.asked))
    reports.report(used())  # of the same request, and yet no part of that batch any more
    reports.report(used("r2"))
    await settle()
    first, *again, last = receiver.asked
    assert again == [first, first]
    assert last.id != first.id
    assert [event["request"] for event in last.events] == ["r1", "r2"]
    assert receiver.tokens() == {("ada", "m"): 33}
    await reports.close()


async def test_it_waits_longer_after_each_failure(caplog: pytest.LogCaptureFixture) -> None:
    receiver, waits = Receiver(*["refused"] * 8), Waits()
    reports = UsageReporter(receiver, interval_s=1, sleep=waits, jitter=lambda: 0.5)
    with caplog.at_level(logging.INFO):
        reports.report(used())
        await settle()
    assert waits.asked[1:9] == [1.25, 2.5, 5, 10] + [1.25 * LONGEST_WAIT_S] * 4
    assert [record.message for record in caplog.records] == [
        "usage is kept until it can be reported: the answer was refused",
        "usage is reported again, after 8 attempts that failed",
    ]
    await reports.close()


async def test_many_requests_become_sums_of_their_keys() -> None:
    receiver = Receiver()
    reports = reporter(receiver, most=4)
    for number in range(10):
        reports.report(used(f"r{number}", key="ada" if number % 2 else "bob", outcome="done" if number else "failed"))
    await reports.close()
    assert len(receiver.events) <= 4
    assert [event["request"] for event in receiver.events][:2] == ["", ""]
    assert receiver.events[-1]["request"] == "r9"  # the youngest keep theirs
    assert receiver.events[0]["outcome"] == "failed"
    assert receiver.tokens() == {("ada", "m"): 55, ("bob", "m"): 55}


async def test_more_keys_than_that_are_all_kept() -> None:
    receiver = Receiver()
    reports = reporter(receiver, most=2)
    for number in range(20):
        reports.report(used(f"r{number}", key=f"k{number % 5}"))
    await reports.close()
    assert receiver.tokens() == {(f"k{number}", "m"): 44 for number in range(5)}
    assert len(receiver.events) == 6  # a sum of each, and the last request


async def test_batches_are_of_a_bounded_size() -> None:
    receiver = Receiver()
    reports = reporter(receiver)
    for number in range(2 * BATCH_EVENTS + 1):
        reports.report(used(f"r{number}"))
    await settle()
    assert [len(batch.events) for batch in receiver.asked] == [BATCH_EVENTS, BATCH_EVENTS, 1]
    await reports.close()


EVENTS = st.lists(st.builds(used, st.sampled_from(["", "r1", "r2", "r3"]), st.sampled_from("abc"), st.integers(0, 9)))
FAULTS = st.lists(st.sampled_from(["refused", "lost", ""]), max_size=8)


@given(EVENTS, FAULTS, st.integers(1, 6), st.integers(1, 5))
async def test_no_token_is_lost_or_counted_twice(
    events: list[Used], faults: list[str], most: int, together: int
) -> None:
    receiver = Receiver(*faults)
    reports, expected = reporter(receiver, most=most), Counter[tuple[str, str]]()
    for number, each in enumerate(events):
        reports.report(each)
        expected[each.principal.key, each.model] += each.prompt_tokens + each.completion_tokens
        if number % together == 0:
            await asyncio.sleep(0)
    receiver.faults.append("")
    await settle()
    await reports.close()
    assert receiver.tokens() == expected


async def test_closing_sends_what_waits_and_ends_the_task() -> None:
    receiver, waits = Receiver(), Waits()
    waits.free.clear()
    reports = reporter(receiver, waits)
    reports.report(used())
    await settle()
    await reports.close()
    assert len(receiver.events) == 1
    assert len(asyncio.all_tasks()) == 1
    await reports.close()
    assert len(receiver.asked) == 1


async def test_closing_sends_again_what_was_on_its_way() -> None:
    receiver = Receiver()

    async def slow(batch: Batch) -> None:
        await receiver(batch)
        if len(receiver.asked) == 1:
            await asyncio.Event().wait()

    reports = reporter(slow)
    reports.report(used())
    await settle()
    reports.report(used("r2"))
    await reports.close()
    assert [batch.id == receiver.asked[0].id for batch in receiver.asked] == [True, True, False]
    assert receiver.tokens() == {("ada", "m"): 22}


async def test_what_cannot_be_sent_at_the_end_is_said(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver("refused")
    reports = reporter(receiver)
    for number in range(BATCH_EVENTS + 1):
        reports.report(used(f"r{number}"))
    await reports.close()
    assert f"the usage of {11 * (BATCH_EVENTS + 1)} tokens is lost" in caplog.text
    assert len(receiver.asked) == 1
    reports.report(used("late"))
    await settle()
    assert len(receiver.asked) == 1
    await reports.close()
    assert receiver.tokens() == {("ada", "m"): 11 * (BATCH_EVENTS + 2)}


class Service(ThreadingHTTPServer):
    """Takes posts, and answers with the statuses it is told, then with 204."""

    posts: list[tuple[str, str | None, dict[str, Any]]]
    statuses: list[int]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.posts.append((self.path, self.headers[SECRET_HEADER], body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.send_header("content-length", "0")
        self.end_headers()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # a proxy that it must not ask
    server = Service(("127.0.0.1", 0), _Handler)
    server.posts, server.statuses = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


BATCH = Batch("b1", ({"request": "r1", "key": "ada", "prompt_tokens": 1, "completion_tokens": 2},))


@pytest.mark.parametrize("path", ["", "/", "/internal"])
async def test_a_batch_is_posted_with_the_secret(service: Service, path: str) -> None:
    send = http_sender(f"http://127.0.0.1:{service.server_port}{path}", "s3cret")
    await send(BATCH)
    await send.close()
    body = {"batch": "b1", "events": list(BATCH.events)}
    assert service.posts == [(f"{path.rstrip('/')}/used", "s3cret", body)]


@pytest.mark.parametrize("status", [307, 400, 403, 500, 503])
async def test_a_batch_that_is_not_taken_is_an_error(service: Service, status: int) -> None:
    service.statuses = [status]
    send = http_sender(f"http://127.0.0.1:{service.server_port}", "s3cret")
    with pytest.raises(httpx.HTTPStatusError, match=str(status)):
        await send(BATCH)
    await send.close()


async def test_reports_outlast_a_service_that_fails(service: Service) -> None:
    service.statuses = [500, 403]
    send = http_sender(f"http://127.0.0.1:{service.server_port}", "s3cret")
    reports = reporter(send)
    reports.report(used())
    await eventually(lambda: len(service.posts) == 3)
    await reports.close()
    await send.close()
    bodies = [body for _, _, body in service.posts[:3]]
    assert bodies[0] == bodies[1] == bodies[2]
    assert bodies[0]["events"][0]["prompt_tokens"] == 10
