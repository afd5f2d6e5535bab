"""What an evaluation asks of a service: over HTTP alone, by its address."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import ValidationError

from app.bulk import backoff_s
from app.evaluation.contestants import Panel, panel_of, panel_of_models
from app.reach import reach
from app.talk import RefusedError, UnreachableError
from deployments.tribunal.config import TribunalSpec

TRIES = 8
"""So often a question is put to a service that is busy (429); then it has failed."""
LONGEST_WAIT_S = 120.0
"""Bounds what a busy service asks to wait."""
BUSY = 429
TRIBUNAL, CHAT = "/v1/tribunal", "/v1/chat/completions"
Messages = Sequence[Mapping[str, str]]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class Reply:
    """A tribunal's answer. tokens: of all its calls, prompts and answers. seconds: without waits for a busy service."""

    answer: str
    tokens: int
    calls: int
    seconds: float
    chosen_by: str
    stopped: str
    absent: int


def client_for(name: str, url: str | None, timeout_s: float) -> httpx.AsyncClient:
    """A client of `url`, or of this person's own service. Raises NotRunningError."""
    return httpx.AsyncClient(**reach(name, url, timeout_s))


class Service:
    """Asks one service. Every method raises RefusedError or UnreachableError, with the service's own words.

    Where the service is busy, it waits and asks again.
    """

    def __init__(
        self, client: httpx.AsyncClient, sleep: Sleep = asyncio.sleep, jitter: Callable[[], float] = random.random
    ) -> None:
        self._client, self._sleep, self._jitter = client, sleep, jitter

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def tribunal(self, name: str, config: Mapping[str, Any], messages: Messages, seed: int) -> Reply:
        """Have a tribunal answer, with `config` laid over what the service says of it."""
        result, seconds = await self._result(name, config, messages, seed)
        try:
            usage = result["usage"]
            return Reply(
                answer=str(result["answer"]), tokens=int(usage["total_tokens"]), calls=int(usage["calls"]),
                seconds=seconds, chosen_by=str(result["chosen_by"]),
                stopped=str(result["stopped"].get("reason", "")), absent=len(result["absent"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnreachableError(f"{TRIBUNAL} answers with what is no tribunal's result: {error!r}") from None

    async def chat(self, body: Mapping[str, Any]) -> str:
        """The text of one chat answer."""
        answer, _ = await self._json("POST", CHAT, body)
        try:
            return str(answer["choices"][0]["message"]["content"] or "")
        except (KeyError, TypeError, IndexError):
            raise UnreachableError(f"{CHAT} answers with what is no chat completion") from None

    async def panel(self, name: str, messages: Messages) -> Panel:
        """Who sits in a tribunal: as the list of tribunals tells, else as one call of it shows."""
        try:
            spec = TribunalSpec.model_validate((await self._card(name)).get("spec"))
        except (RefusedError, ValidationError):
            return await self._seen(name, messages)
        return panel_of(name, spec)

    async def _card(self, name: str) -> dict[str, Any]:
        answer, _ = await self._json("GET", TRIBUNAL)
        data = answer.get("data")
        cards = [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
        return next((card for card in cards if card.get("name") == name), {})

    async def _seen(self, name: str, messages: Messages) -> Panel:
        """A mixture that nothing stops early asks every member for a draft, and then the chair."""
        config = {"strategy": "mixture", "samples": None, "stop": {"consensus": None, "leader": False}}
        result, _ = await self._result(name, config, messages, seed=0)
        try:
            called = [*result["trace"], *result["absent"]]
            steps = sorted(called, key=lambda step: (step.get("kind") == "synthesis", step["step"]))
            models = [str(step["model"]) for step in steps]
        except (KeyError, TypeError, AttributeError) as error:
            raise UnreachableError(f"{TRIBUNAL} answers with what is no tribunal's result: {error!r}") from None
        return panel_of_models(name, models)

    async def _result(
        self, name: str, config: Mapping[str, Any], messages: Messages, seed: int
    ) -> tuple[dict[str, Any], float]:
        body = {"tribunal": name, "config": dict(config), "messages": list(messages), "seed": seed}
        return await self._json("POST", TRIBUNAL, body)

    async def _json(self, method: str, path: str, body: Any = None) -> tuple[dict[str, Any], float]:
        """The answer, and the seconds that it took."""
        response, seconds = await self._sent(method, path, body)
        for attempt in range(TRIES - 1):
            if response.status_code != BUSY:
                break
            await self._sleep(backoff_s(attempt, _retry_after(response), self._jitter()))
            response, seconds = await self._sent(method, path, body)
        return _told(response, path), seconds

    async def _sent(self, method: str, path: str, body: Any) -> tuple[httpx.Response, float]:
        began = time.monotonic()
        try:
            response = await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise UnreachableError(f"{self._client.base_url} does not answer: {why}") from None
        return response, time.monotonic() - began


def _retry_after(response: httpx.Response) -> float:
    """Seconds that a busy service asks to wait; 0 if it names none."""
    seconds = response.headers.get("retry-after", "").strip()
    return min(float(seconds), LONGEST_WAIT_S) if seconds.isascii() and seconds.isdigit() else 0.0


def _told(response: httpx.Response, path: str) -> dict[str, Any]:
    """The answer of a request that went well."""
    answer = _object(response)
    if response.status_code == 200 and answer is not None:
        return answer
    message = _message(answer) or f"HTTP {response.status_code} from {path}"
    raise (RefusedError if 400 <= response.status_code < 500 else UnreachableError)(message)


def _object(response: httpx.Response) -> dict[str, Any] | None:
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _message(answer: dict[str, Any] | None) -> str | None:
    """OpenAI's error message."""
    error = (answer or {}).get("error")
    return str(error["message"]) if isinstance(error, dict) and error.get("message") else None
