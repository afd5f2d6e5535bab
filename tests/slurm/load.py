"""A steady load of short requests, each with its outcome."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.slurm.service import HELLO

REQUEST_S = 60


@dataclass(frozen=True)
class Outcome:
    """One request; `failure` is empty if it was answered whole."""

    began: float
    ended: float
    url: str
    failure: str = ""


@dataclass
class Load:
    """`users` threads that ask, think and ask again, each time whom `address` names; where it names nobody they wait.

    key: the header that they are let in with.
    All nodes share two cores here: users who never think would slow down the start of what replaces a lost replica.
    """

    model: str
    address: Callable[[], str | None]
    key: Mapping[str, str]
    users: int = 4
    tokens: int = 24
    think_s: float = 1.0
    outcomes: list[Outcome] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failure]

    def answered_since(self, moment: float) -> int:
        return sum(not outcome.failure and outcome.began > moment for outcome in self.outcomes)

    @contextmanager
    def going(self) -> Iterator[Load]:
        threads = [threading.Thread(target=self._user, name=f"user-{number}") for number in range(self.users)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join(REQUEST_S)

    def _user(self) -> None:
        with httpx.Client(headers=self.key, timeout=REQUEST_S, trust_env=False) as client:
            while not self._over.is_set():
                if url := self.address():
                    self.outcomes.append(self._request(client, url))
                    self._over.wait(self.think_s)
                else:
                    self._over.wait(0.1)

    def _request(self, client: httpx.Client, url: str) -> Outcome:
        body = {"model": self.model, "messages": HELLO, "max_tokens": self.tokens, "ignore_eos": True}
        began, failure = time.time(), ""
        try:
            answer = client.post(f"{url}/v1/chat/completions", json=body)
            if answer.status_code != 200 or answer.json()["usage"]["completion_tokens"] != self.tokens:
                failure = f"{answer.status_code} {answer.text[:300]}"
        except httpx.HTTPError as error:
            failure = repr(error)
        return Outcome(began, time.time(), url, failure)


class Balancer:
    """Asks /ready every second, as a load balancer does, and names the address only while it says yes."""

    def __init__(self, url: str, key: Mapping[str, str]) -> None:
        self.url, self._key = url, key
        self.ready = True
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __call__(self) -> str | None:
        return self.url if self.ready else None

    def __enter__(self) -> Balancer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(1):
            try:
                answer = httpx.get(f"{self.url}/ready", headers=self._key, timeout=5, trust_env=False)
                self.ready = answer.status_code == 200
            except httpx.HTTPError:
                self.ready = False
