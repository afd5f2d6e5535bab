"""The gateway over scripted tribunals, and its server-sent events as they are read."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI

from tests.unit.asgi import gateway
from tests.unit.fakes import FakeModel, FakeTribunals


def over(tribunals: FakeTribunals, **more: Any) -> FastAPI:
    return gateway(FakeModel("a"), tribunals=tribunals, **more)


def events(body: bytes) -> list[tuple[int | None, dict[str, Any]]]:
    """(id, data) of each event; comments are left out."""
    found = []
    for text in filter(None, body.decode().split("\n\n")):
        fields = dict(line.split(": ", 1) for line in text.split("\n"))
        if "data" in fields:
            found.append((int(fields["id"]) if "id" in fields else None, json.loads(fields["data"])))
    return found


def chunks(body: bytes) -> list[Any]:
    """What stands after `data:` in each event, [DONE] as it is; comments are left out."""
    texts = [text for text in body.decode().removesuffix("\n\n").split("\n\n") if not text.startswith(":")]
    return [text if text == "data: [DONE]" else json.loads(text.removeprefix("data: ")) for text in texts]
