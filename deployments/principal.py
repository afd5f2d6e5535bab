"""Principal: on whose behalf something is asked, as the edge found out, and what that key may do.

The edge tells the gateway and the replicas in one header, which counts only beside the service's own secret. Inside a
process the principal of the request at hand is in CURRENT, and calls between deployments carry it along.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

HEADER = "x-corral-principal"
SECRET_HEADER = "x-corral-secret"  # noqa: S105
FIELD = "corral_principal"
"""Under this name the body of a call between deployments carries it."""
ADMIN, MODELS, TRIBUNAL, RAG, DOCUMENTS, METRICS = "admin", "models", "tribunal", "rag", "documents", "metrics"
KINDS = (MODELS, TRIBUNAL, RAG, DOCUMENTS, METRICS, ADMIN)
NAMED = (MODELS, TRIBUNAL, RAG, DOCUMENTS)
"""Kinds of scopes that may be for one name alone: models:llama-3.1-8b, rag:handbook."""


@dataclass(frozen=True)
class Principal:
    """key: its id ("" where the service asks for none). weight, group_weight: shares when there is not enough for all.

    scopes: what it may do: KINDS, or `kind:name` for one thing of that kind. admin may do everything.
    request: id of the request. label: what its client calls it, x-request-id; two may have the same.
    trace: the span at hand as W3C's traceparent, "" where there is none.
    """

    key: str = ""
    group: str = ""
    scopes: tuple[str, ...] = (ADMIN,)
    weight: float = 1
    group_weight: float = 1
    request: str = ""
    label: str = ""
    trace: str = ""

    def may(self, kind: str, name: str | None = None) -> bool:
        """Whether it may use `name`; without a name, whether it may use all of that kind."""
        wanted = {ADMIN, kind} if name is None else {ADMIN, kind, f"{kind}:{name}"}
        return not wanted.isdisjoint(self.scopes)

    def may_some(self, kind: str) -> bool:
        """Whether it may use at least one thing of that kind."""
        return self.may(kind) or any(scope.startswith(f"{kind}:") for scope in self.scopes)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Principal:
        """Raises TypeError or KeyError for what to_json did not write."""
        scopes = data["scopes"]
        if not isinstance(scopes, list | tuple):
            raise TypeError("scopes: a list is wanted")
        told = cls(**{**data, "scopes": tuple(scopes)})
        texts = (told.key, told.group, told.request, told.label, told.trace, *scopes)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is wanted in every field but the weights")
        weights = (told.weight, told.group_weight)
        if not all(isinstance(weight, int | float) and 0 <= weight < inf for weight in weights):
            raise TypeError("weights: finite numbers are wanted")
        return told

    def to_header(self) -> str:
        """One line of ASCII."""
        return json.dumps(self.to_json(), separators=(",", ":"))

    @classmethod
    def from_header(cls, text: str | bytes) -> Principal:
        """Raises ValueError, TypeError or KeyError for what to_header did not write."""
        try:
            return cls.from_json(json.loads(text))
        except RecursionError:
            raise ValueError("nested too deeply") from None


ANYBODY = Principal()
"""Where no key is asked for."""
CURRENT: ContextVar[Principal] = ContextVar("principal", default=ANYBODY)
