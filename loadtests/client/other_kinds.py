"""Corral's own routes: /generate, /v1/tribunal and /v1/rag/chat asked for whole answers, /bulk for many at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from loadtests.client.events import count
from loadtests.client.exchange import Failure, exchange, failure, message_of
from loadtests.client.prompts import Prompt
from loadtests.records import Fault, Kind, Point, Sample, Side

TRIBUNAL, RAG = "tribunal", "rag"
LONGEST_QUESTION = 32_768
"""Characters that /v1/rag/chat takes."""
Body = dict[str, Any]


@dataclass(frozen=True)
class Route:
    """Where whole answers come from: the path, what is sent, and the field with the text."""

    path: str
    body: Callable[[Point, Prompt, float], Body]
    text: str


def _single(point: Point, prompt: Prompt, temperature: float) -> Body:
    return {"model": point.model, **_item(prompt), "temperature": temperature}


def _item(prompt: Prompt) -> Body:
    return {"prompt": prompt.text, "max_tokens": prompt.output_tokens}


def _tribunal(point: Point, prompt: Prompt, _temperature: float) -> Body:
    """The members' temperatures are the tribunal's own."""
    named = {} if point.model in ("", TRIBUNAL) else {"tribunal": point.model.removeprefix(f"{TRIBUNAL}/")}
    return {"question": prompt.text, "max_tokens": prompt.output_tokens, **named}


def _rag(point: Point, prompt: Prompt, temperature: float) -> Body:
    return {
        "collection": point.model.removeprefix(f"{RAG}/"),
        "question": prompt.text[:LONGEST_QUESTION],
        "max_tokens": prompt.output_tokens,
        "temperature": temperature,
    }


ROUTES = {
    Kind.SINGLE: Route("/generate", _single, "text"),
    Kind.TRIBUNAL: Route("/v1/tribunal", _tribunal, "answer"),
    Kind.RAG: Route("/v1/rag/chat", _rag, "answer"),
}


class WholeAsker:
    """Asks for whole answers, so there is no time to first token. `now`: seconds since the measurement began.

    The point's model is a served id, a tribunal (NAME or tribunal/NAME) or a collection (NAME or rag/NAME).
    """

    def __init__(
        self, session: aiohttp.ClientSession, side: Side, point: Point, temperature: float, now: Callable[[], float]
    ) -> None:
        self._session, self._point, self._temperature, self._now = session, point, temperature, now
        self._route = ROUTES[point.kind]
        self._url = URL(side.url + self._route.path)
        self._answered = self._declined = self._under_way = 0
        self.cut: Failure | None = None

    @property
    def silent(self) -> int:
        return self._under_way

    @property
    def notices(self) -> tuple[str, ...]:
        if not self._declined:
            return ()
        return (
            f"{self._declined} of {self._answered} answers were refusals: the documents tell nothing about such "
            "questions, and no model was asked; give --workload a file of questions about them",
        )

    def body(self, prompt: Prompt) -> bytes:
        return json.dumps(self._route.body(self._point, prompt, self._temperature)).encode()

    async def ask(self, body: bytes, due_s: float | None = None) -> Sample:
        """Ask once. `due_s`: when it should have been sent, if not now. Raises nothing for what an endpoint does."""
        taken, began = bytearray(), self._now()
        self._under_way += 1
        try:
            failed = await exchange(
                self._session, self._url, body, lambda response: _read(response, taken), lambda: self.cut
            )
        finally:
            self._under_way -= 1
        due, ended = began if due_s is None else due_s, self._now()
        if failed is not None:
            return Sample(due, began, ended, fault=failed.fault, detail=failed.detail)
        answer = _object(taken)
        if answer.get("refused") is True:
            self._declined += 1
        self._answered += 1
        return _sample(answer, self._route.text, due, began, ended)

    async def ask_all(self, body: bytes, due_s: float | None = None) -> list[Sample]:
        return [await self.ask(body, due_s)]


class BulkAsker:
    """POST /bulk with several prompts at once; its lines come as items finish, and each is a sample."""

    def __init__(
        self, session: aiohttp.ClientSession, side: Side, point: Point, temperature: float, now: Callable[[], float]
    ) -> None:
        self._session, self._url, self._now = session, URL(side.url + "/bulk"), now
        self._model, self._temperature = point.model, temperature
        self.silent = 0
        self.cut: Failure | None = None

    async def ask_all(self, prompts: Sequence[Prompt], _: float | None = None) -> list[Sample]:
        """Send them in one call and wait for every line. What comes of an item is a sample, in any order.

        An item without a line has the fault of the whole call.
        """
        body, samples = self._body(prompts), list[Sample]()
        self.silent += len(prompts)
        began = self._now()
        failed = await exchange(
            self._session, self._url, body, lambda response: self._lines(response, began, samples), lambda: self.cut
        )
        failed = failed or failure(Fault.BROKEN_STREAM, "the answer ended without this item's line")
        ended, missing = self._now(), len(prompts) - len(samples)
        self.silent -= missing
        return samples + [Sample(began, began, ended, fault=failed.fault, detail=failed.detail) for _ in range(missing)]

    def _body(self, prompts: Sequence[Prompt]) -> bytes:
        return json.dumps(
            {
                "model": self._model,
                "defaults": {"temperature": self._temperature},
                "items": [_item(each) for each in prompts],
                "stream": True,
            }
        ).encode()

    async def _lines(self, response: aiohttp.ClientResponse, began: float, samples: list[Sample]) -> Failure | None:
        rest = b""
        async for piece in response.content.iter_any():
            ended = self._now()
            *lines, rest = (rest + piece).split(b"\n")
            found = [_line(each, began, ended) for each in lines if each.strip()]
            samples += found
            self.silent -= len(found)
        return None


def _line(line: bytes, began: float, ended: float) -> Sample:
    said = _object(line)
    if error := said.get("error"):
        return Sample(began, began, ended, fault=_fault_of(error), detail=failure(Fault.SERVER, _told(error)).detail)
    result = said.get("result")
    return _sample(result if isinstance(result, dict) else {}, "text", began, began, ended)


def _sample(answer: Body, text: str, due: float, began: float, ended: float) -> Sample:
    """From an object with a text and a usage."""
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    tokens = count(usage.get("completion_tokens"))
    fault, detail = None, ""
    if not isinstance(answer.get(text), str):
        fault, detail = failure(Fault.UNREADABLE, f"an answer without {text!r}: {json.dumps(answer)}")
    elif not answer[text] and not tokens:
        fault, detail = failure(Fault.EMPTY, "the answer has no text")
    return Sample(due, began, ended, (), count(usage.get("prompt_tokens")), tokens, fault, detail)


def _fault_of(error: object) -> Fault:
    """Of an item's error, which has no status but OpenAI's type and Corral's code."""
    said = error if isinstance(error, dict) else {}
    if said.get("type") == "rate_limit_error":
        return Fault.OVERLOAD
    if said.get("code") == "deadline_exceeded":
        return Fault.TIMEOUT
    return Fault.REFUSED if said.get("type") == "invalid_request_error" else Fault.SERVER


def _told(error: object) -> str:
    return message_of(json.dumps({"error": error}).encode())


def _object(raw: bytes | bytearray) -> Body:
    """A JSON object; empty if it is none."""
    try:
        read = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


async def _read(response: aiohttp.ClientResponse, taken: bytearray) -> None:
    taken += await response.read()
