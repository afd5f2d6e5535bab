"""Draft: what is known of an answer while it is made, and the events that tell of it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from deployments.chat import Usage
from deployments.retrieval.result import Citation, Found, Hit, RagAnswer, Shown
from deployments.retrieval.sources import Asked
from deployments.tracing import MODEL, TRACES
from rag.answer.citations import CitationFilter, marks_of
from rag.answer.refusal import Refusal, honest_sentence

Event = dict[str, Any]


@dataclass
class Draft:
    """question: as it is searched for. hits: by their numbers, the first is 1. used: the numbers that a model read."""

    id: str
    asked: Asked
    question: str
    clock: Callable[[], float] = time.perf_counter
    hits: list[Hit] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    version: int | None = None
    text: str = ""
    refusal: Refusal | None = None
    citations: list[Citation] = field(default_factory=list)
    removed: int = 0
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = "stop"
    searches: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def collection(self) -> str:
        return self.asked.ask.search.collection

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Adds to a timing."""
        began = self.clock()
        try:
            with TRACES.span(f"rag {name}", {MODEL: self.asked.model.model_id}):
                yield
        finally:
            self.timings_ms[name] = self.timings_ms.get(name, 0) + (self.clock() - began) * 1000

    def count(self, usage: Usage | None) -> None:
        if usage:
            self.usage = Usage(
                self.usage.prompt_tokens + usage.prompt_tokens, self.usage.completion_tokens + usage.completion_tokens
            )

    def searched(self, found: Found) -> None:
        """Takes note of one search: its version, and what of the time was the reranker's."""
        reranked = found.timings_ms.get("rerank", 0)
        self.version = found.version
        self.timings_ms["retrieve"] = self.timings_ms.get("retrieve", 0) - reranked
        self.timings_ms["rerank"] = self.timings_ms.get("rerank", 0) + reranked

    def passages_event(self) -> Event:
        return {"type": "passages", "passages": [shown.to_json() for shown in self._shown()]}

    def refuse(self, refusal: Refusal, text: str | None = None) -> Event:
        """The answer is a refusal, in a fixed sentence or in the model's own."""
        self.refusal, self.citations = refusal, []
        self.text = text or honest_sentence(self.collection)
        return {"type": "delta", "text": self.text}

    def cite(self, number: int, answer: str, places: Iterable[int]) -> Event:
        """The citation of a passage at some places of the answer, as far as that is written."""
        hit = self.hits[number - 1]
        citation = Citation(number, hit, marks_of(hit.passage.text, answer, places))
        self.citations = [*(each for each in self.citations if each.number != number), citation]
        return {"type": "citation", "citation": citation.to_json()}

    def written(self, filtered: CitationFilter) -> None:
        """The answer is whole: its marks are those of all places at which a passage is cited."""
        self.text, self.removed = filtered.text.strip(), self.removed + filtered.removed
        for number, places in filtered.cited.items():
            self.cite(number, filtered.text, places)

    def result(self) -> RagAnswer:
        self.timings_ms["total"] = (self.clock() - self._began) * 1000
        names = ("rewrite", "retrieve", "rerank", "generate", "total")
        return RagAnswer(
            id=self.id, collection=self.collection, version=self.version, model=self.asked.model.model_id,
            question=self.question, answer=self.text, refusal=self.refusal, citations=tuple(self.citations),
            removed_citations=self.removed, passages=tuple(self._shown()),
            timings_ms={name: max(0.0, self.timings_ms.get(name, 0.0)) for name in names},
            usage=self.usage, finish_reason=self.finish_reason, searches=self.searches, session=self.asked.ask.session,
        )  # fmt: skip

    def _shown(self) -> Iterator[Shown]:
        return (Shown(number, hit, number in self.used) for number, hit in enumerate(self.hits, 1))


async def result_of(told: AsyncGenerator[Event, None]) -> dict[str, Any]:
    """The result that the last event has."""
    last: Event = {}
    async with aclosing(told) as events:
        async for event in events:
            last = event
    result: dict[str, Any] = last["result"]
    return result
