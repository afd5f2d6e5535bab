"""What the tests of evaluations share: outcomes made by hand, and a service that answers as it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from app.evaluation.compare import Ran
from app.evaluation.contestants import Contestant, Seat, single
from app.evaluation.outcomes import Outcome
from app.evaluation.tasks import Task
from deployments.tribunal.config import Member

Answer = Callable[[dict[str, Any]], str]


def ran(label: str, hits: str, tokens: int = 100, model: str | None = None, samples: int = 1) -> Ran:
    """A contestant whose outcomes are given as a row: 1 right, 0 wrong, x failed."""
    sits = seat(model) if model else None
    made = (
        single(sits) if sits and samples == 1 else Contestant(label, "council", {"strategy": "council"}, sits, samples)
    )
    return Ran(made, tuple(_outcome(made.label, index, hit, tokens) for index, hit in enumerate(hits)))


def _outcome(label: str, index: int, hit: str, tokens: int) -> Outcome:
    failed = "broken" if hit == "x" else None
    return Outcome(label, f"t{index}", hit == "1", "said", 0 if failed else tokens, 1, 0.5, failed=failed)


def seat(model: str) -> Seat:
    return Seat(model, Member(model=model))


def questions(count: int, **fields: Any) -> tuple[Task, ...]:
    return tuple(
        Task.model_validate({"id": f"t{i}", "question": f"What is {i}?", "reference": f"It is {i}.", **fields})
        for i in range(count)
    )


class FakeService:
    """POST /v1/tribunal over a transport: who is asked what, how many at once, and an answer or a failure for each."""

    members = ("small", "large")
    chair = "chair"

    def __init__(self, answer: Answer, tokens: Callable[[dict[str, Any]], int] = lambda config: 100) -> None:
        self.answer, self.tokens = answer, tokens
        self.asked: list[dict[str, Any]] = []
        self.judged: list[dict[str, Any]] = []
        self.verdicts: list[str] = []
        self.card: dict[str, Any] | None = None
        self.down = False
        self.busy: list[httpx.Response] = []
        self.at_once = self.most_at_once = 0

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._handle), base_url="http://service")

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused")
        if request.method == "GET":
            return httpx.Response(200, json={"data": [self.card] if self.card else []})
        if self.busy:
            return self.busy.pop(0)
        body = json.loads(request.content)
        if request.url.path == "/v1/chat/completions":
            self.judged.append(body)
            return httpx.Response(200, json={"choices": [{"message": {"content": self.verdicts.pop(0)}}]})
        self.asked.append(body)
        return await self._tribunal(body)

    async def _tribunal(self, body: dict[str, Any]) -> httpx.Response:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.at_once -= 1
        try:
            answer = self.answer(body)
        except LookupError as error:
            return httpx.Response(503, json={"error": {"message": str(error.args[0]), "type": "server_error"}})
        return httpx.Response(200, json=self._result(answer, self.tokens(body["config"])))

    def _result(self, answer: str, tokens: int) -> dict[str, Any]:
        steps = [{"step": i, "kind": "draft", "model": model} for i, model in enumerate(self.members)]
        trace = [*reversed(steps), {"step": 9, "kind": "synthesis", "model": self.chair}]
        return {
            "answer": answer, "chosen_by": "chair", "trace": trace, "absent": [], "stopped": {"reason": "done"},
            "usage": {"total_tokens": tokens, "calls": 3},
        }  # fmt: skip


class SilentBoard:
    """Remembers what was begun."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int]] = []

    def begin(self, label: str, done: int, total: int) -> None:
        self.begun.append((label, done, total))

    def advance(self) -> None:
        pass


def number_of(body: dict[str, Any]) -> int:
    """Which of questions() a request asks."""
    return int(body["messages"][-1]["content"].removeprefix("What is ").removesuffix("?"))


def labels(runs: Sequence[Ran]) -> list[str]:
    return [each.label for each in runs]
