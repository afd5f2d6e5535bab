"""Which scope a request needs, as far as its path and its model tell; the gateway looks deeper into its body."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from deployments.principal import ADMIN, DOCUMENTS, METRICS, MODELS, RAG, TRIBUNAL, Principal
from deployments.retrieval.service import collection_of
from deployments.tribunal.config import tribunal_name

ADMINS = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
ASKING = ("/generate", "/bulk", "/tokenize", "/detokenize")
"""Paths outside of /v1 that ask models; which ones, the gateway sees."""


@dataclass(frozen=True)
class Need:
    """A kind of scope, and what of it; without a name at least one thing of that kind."""

    kinds: tuple[str, ...]
    name: str | None = None

    def met_by(self, principal: Principal) -> bool:
        if self.name is None:
            return any(principal.may_some(kind) for kind in self.kinds)
        return any(principal.may(kind, self.name) for kind in self.kinds)

    def __str__(self) -> str:
        return " or ".join(kind if self.name is None else f"{kind}:{self.name}" for kind in self.kinds)


def needed(method: str, path: str, model: str | None = None) -> Need | None:
    """What a key needs for this request; None if any key will do. Whoever serves an encoded path decodes it, too."""
    path = unquote(path)
    if path in ADMINS:
        return Need((ADMIN,))
    if path == "/metrics":
        return Need((METRICS,))
    if path.startswith("/v1/tribunal"):
        return Need((TRIBUNAL,))
    if path.startswith("/v1/rag"):
        return Need((RAG, DOCUMENTS))
    if method != "POST" or not path.startswith(("/v1/", *ASKING)):
        return None
    return asking(model) if model else None


def asking(model: str) -> Need:
    """What it takes to ask this model, a tribunal's or a collection's virtual one included."""
    if (collection := collection_of(model)) is not None:
        return Need((RAG,), collection)
    if (tribunal := tribunal_name(model)) is not None:
        return Need((TRIBUNAL,), tribunal)
    return Need((MODELS,), model)
