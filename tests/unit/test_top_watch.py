"""A service that is looked at again and again: through its end, its return, another address, and refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import pytest

from app.launch import NotRunningError
from app.monitoring.places import Place
from app.monitoring.watch import Watch
from app.reach import reach
from app.talk import RefusedError
from tests.ports import own_port

USAGE = {
    "data": [
        {"key": "", "requests": 9, "refused": 0, "prompt_tokens": 9, "completion_tokens": 9},
        {"key": "aaaa2222", "name": "ana", "requests": 2, "refused": 1, "prompt_tokens": 3, "completion_tokens": 4},
        {"key": "bbbb2222", "requests": 5, "refused": 0, "prompt_tokens": 30, "completion_tokens": 40},
    ]
}


class Answers(BaseHTTPRequestHandler):
    """As a service: every scrape finds 10 tokens more."""

    scrapes: Iterator[int]
    refusal: int | None = None
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.refusal:
            return self._say(self.refusal, json.dumps({"error": {"message": "it needs the scope metrics"}}))
        if self.path == "/metrics":
            return self._say(200, METRICS.format(tokens=10 * next(self.scrapes)))
        return self._say(200, json.dumps(USAGE))

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


METRICS = (
    "# TYPE corral_model_replicas gauge\n"
    'corral_model_replicas{{model="m"}} 1\n'
    "# TYPE vllm:generation_tokens_total counter\n"
    'vllm:generation_tokens_total{{corral_model="m",replica="a"}} {tokens}\n'
)


@contextmanager
def served(port: int, refusal: int | None = None) -> Iterator[type[Answers]]:
    answers = type("Fresh", (Answers,), {"scrapes": count(1), "refusal": refusal, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", port), answers) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield answers
        server.shutdown()
        thread.join()


def watch_of(port: int) -> Watch:
    """One second passes between two looks."""
    ticks = count()
    here = Place(reach("x", f"http://127.0.0.1:{port}", 5), "serving")
    return Watch("x", lambda: here, lambda: 1_000.0, lambda: float(next(ticks)))


def test_it_survives_that_the_service_goes_and_comes_back() -> None:
    port = own_port()
    with closing(watch_of(port)) as watch:
        with served(port) as answers:
            first, second = watch.look(), watch.look()
        away = watch.look()
        with served(port):
            back, again = watch.look(), watch.look()
    assert (first.trouble, first.figures and first.figures.interval_s) == (None, None)
    assert second.figures
    assert second.figures.models[0].completion_tokens_per_s == 10
    assert [key.key for key in second.keys] == ["bbbb2222", "aaaa2222"]
    assert "/v1/usage?by=key&since=1970-01-01" in answers.asked
    assert away.trouble
    assert (away.figures, away.since) == (second.figures, 1_000.0)
    assert (back.trouble, back.figures and back.figures.interval_s) == (None, None)
    assert again.figures
    assert again.figures.models[0].completion_tokens_per_s == 10


def test_it_goes_along_with_the_service_to_another_address() -> None:
    old, new = own_port(), own_port()
    with served(old), served(new) as answers:
        ports = iter([old, old, new, new])
        ticks = count()
        find = lambda: Place(reach("x", f"http://127.0.0.1:{next(ports)}", 5), "serving")  # noqa: E731
        with closing(Watch("x", find, lambda: 0.0, lambda: float(next(ticks)))) as watch:
            looks = [watch.look() for _ in range(4)]
    assert [look.figures and look.figures.interval_s for look in looks] == [None, 1, None, 1]
    assert answers.asked.count("/metrics") == 2


def test_a_key_that_may_not_ask_is_told_at_once() -> None:
    port = own_port()
    with (
        served(port, refusal=403),
        closing(watch_of(port)) as watch,
        pytest.raises(RefusedError, match="scope metrics"),
    ):
        watch.look()


@pytest.mark.parametrize("refusal", [500, 503])
def test_what_may_pass_is_trouble(refusal: int) -> None:
    port = own_port()
    with served(port, refusal=refusal), closing(watch_of(port)) as watch:
        assert watch.look().trouble == "it needs the scope metrics"


def test_a_service_without_an_address_is_trouble() -> None:
    def find() -> Place:
        raise NotRunningError("it waits in\nthe \x1bqueue")

    with closing(Watch("x", find, lambda: 0.0, lambda: 0.0)) as watch:
        look = watch.look()
    assert (look.trouble, look.place, look.figures) == ("it waits in the queue", None, None)
