"""What an evaluation asks of a service: over HTTP alone, by its address."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import ValidationError

from app.evaluation.contestants import Panel
from app.launch import NotRunningError
from app.state import read_state
from app.talk import RefusedError, UnreachableError
from deployments.tribunal.config import TribunalSpec

CONNECT_S = 5.0
TRIBUNAL, CHAT = "/v1/tribunal", "/v1/chat/completions"
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Reply:
    """A tribunal's answer. tokens: of all its calls, prompts and answers."""

    answer: str
    tokens: int
    calls: int
    seconds: float
    chosen_by: str
    stopped: str
    absent: int


def client_for(name: str, url: str | None, timeout_s: float) -> httpx.AsyncClient:
    """A client of `url`, or of this person's own service. Raises NotRunningError."""
    local = url is None
    if url is None:
        state = read_state(name)
        if state is None:
            raise NotRunningError(f"no service {name!r} runs here; `corral up` starts one, --url names another")
        url = state.address
    base = url.rstrip("/").removesuffix("/v1")
    timeout = httpx.Timeout(timeout_s, connect=CONNECT_S)
    return httpx.AsyncClient(base_url=base, timeout=timeout, trust_env=not local)


class Service:
    """Asks one service. Every method raises RefusedError or UnreachableError, with the service's own words."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def tribunal(self, name: str, config: Mapping[str, Any], messages: Messages, seed: int) -> Reply:
        """Have a tribunal answer, with `config` laid over what the service says of it."""
        began = time.monotonic()
        result = await self._result(name, config, messages, seed)
        seconds = time.monotonic() - began
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
        answer = await self._json("POST", CHAT, body)
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
        models = tuple(dict.fromkeys(seat.model for seat in (*spec.members, spec.chair_member)))
        return Panel(name, models, spec.model_dump(mode="json"))

    async def _card(self, name: str) -> dict[str, Any]:
        data = (await self._json("GET", TRIBUNAL)).get("data")
        cards = [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
        return next((card for card in cards if card.get("name") == name), {})

    async def _seen(self, name: str, messages: Messages) -> Panel:
        """A mixture that nothing stops early asks every member for a draft, and then the chair."""
        config = {"strategy": "mixture", "samples": None, "stop": {"consensus": None, "leader": False}}
        result = await self._result(name, config, messages, seed=0)
        try:
            called = [*result["trace"], *result["absent"]]
            steps = sorted(called, key=lambda step: (step.get("kind") == "synthesis", step["step"]))
            models = tuple(dict.fromkeys(str(step["model"]) for step in steps))
        except (KeyError, TypeError, AttributeError) as error:
            raise UnreachableError(f"{TRIBUNAL} answers with what is no tribunal's result: {error!r}") from None
        return Panel(name, models, {"models": list(models)})

    async def _result(self, name: str, config: Mapping[str, Any], messages: Messages, seed: int) -> dict[str, Any]:
        body = {"tribunal": name, "config": dict(config), "messages": list(messages), "seed": seed}
        return await self._json("POST", TRIBUNAL, body)

    async def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        try:
            response = await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise UnreachableError(f"{self._client.base_url} does not answer: {why}") from None
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
