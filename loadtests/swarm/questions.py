"""What users of each kind ask: the path, the body, and how the answer is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loadtests.client.dialect import Dialect
from loadtests.client.events import Reading
from loadtests.client.other_kinds import ROUTES
from loadtests.client.prompts import Prompt, Workload, workload_of
from loadtests.records import Kind, Point
from loadtests.swarm.answers import Answer, Lines, Whole
from loadtests.swarm.settings import Found, Settings

CHAT = "/v1/chat/completions"
BULK = "/bulk"


@dataclass(frozen=True)
class Question:
    """One request."""

    path: str
    body: bytes
    answer: Answer


@dataclass(frozen=True)
class Asking:
    """What is the same for all questions of a kind."""

    settings: Settings
    found: Found
    kind: Kind

    @property
    def point(self) -> Point:
        settings = self.settings
        models = {Kind.TRIBUNAL: settings.tribunal, Kind.RAG: settings.collection}
        return Point(
            model=models.get(self.kind, settings.model or self.found.model),
            concurrency=1,
            input_tokens=settings.input_tokens,
            output_tokens=settings.output_tokens,
            kind=self.kind,
        )

    def workload(self) -> Workload:
        """Raises WorkloadError."""
        settings, found = self.settings, self.found
        return workload_of(
            settings.workload,
            self.point,
            settings.seed,
            found.words_per_token,
            template_tokens=found.template_tokens,
            most_tokens=found.most_tokens,
        )

    def question(self, prompts: Callable[[], Prompt]) -> Question:
        """The next question; a bulk call takes many prompts."""
        if self.kind is Kind.BULK:
            return self._bulk([prompts() for _ in range(self.settings.bulk_items)])
        prompt = prompts()
        if self.kind is Kind.CHAT:
            return Question(CHAT, self._chat(prompt), Reading())
        route = ROUTES[self.kind]
        body = route.body(self.point, prompt, self.settings.temperature)
        return Question(route.path, json.dumps(body).encode(), Whole(route.text))

    def _chat(self, prompt: Prompt) -> bytes:
        dialect: Dialect = self.found.dialect
        return dialect.chat(self.point.model, prompt.text, prompt.output_tokens, self.settings.temperature)

    def _bulk(self, prompts: list[Prompt]) -> Question:
        items = [{"prompt": each.text, "max_tokens": each.output_tokens} for each in prompts]
        defaults: Mapping[str, object] = {"temperature": self.settings.temperature}
        body = {"model": self.point.model, "defaults": defaults, "items": items, "stream": True}
        return Question(BULK, json.dumps(body).encode(), Lines(len(items)))
