"""When each model entered each phase of its start, for the timeline, from the small files that engines leave."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

EVENTS = {
    "starting the engine": "process",
    "loading weights": "weights",
    "warming up": "warm-up",
    "compiling": "compile",
    "capturing CUDA graphs": "warm-up",
}
"""Phase of deployments.progress -> event of the timeline."""

Say = Callable[[str, str], None]
"""Takes an event and a model."""


class PhaseWatch:
    """Says each event of each model once."""

    def __init__(self, folder: Path, models: Collection[str], say: Say) -> None:
        self._folder, self._models, self._say = folder, models, say
        self._said: set[tuple[str, str]] = set()

    def look(self) -> None:
        """Read the phases; call it often, since a phase that was missed is not seen again."""
        for model in self._models:
            with contextlib.suppress(OSError):
                if event := EVENTS.get((self._folder / model).read_text()):
                    self.say_once(event, model)

    def states(self, models: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Note what the gateway says; returns the models that have just become ready for the first time."""
        fresh = []
        for model, status in models.items():
            if status["state"] == "failed":
                self.say_once("failed", model)
            if status["state"] == "ready" and self.say_once("ready", model):
                fresh.append(model)
        return fresh

    def say_once(self, event: str, model: str) -> bool:
        """Whether it was new."""
        if (event, model) in self._said:
            return False
        self._said.add((event, model))
        self._say(event, model)
        return True
