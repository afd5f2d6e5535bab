"""What the endpoint says of itself, asked once before a load begins."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from loadtests.client.endpoint import EndpointError, calibrate, look
from loadtests.client.questions import ROOM
from loadtests.swarm.settings import Found

LOOK_S = 60
"""A load waits no longer for what is good to know."""


def look_at(url: str, key: str | None, model: str) -> Found:
    """`model`: empty for the first one of the endpoint. Raises EndpointError, whose message is for people."""
    return asyncio.run(_look(url, key, model))


async def _look(url: str, key: str | None, model: str) -> Found:
    try:
        async with asyncio.timeout(LOOK_S):
            side = await look(url, key=key, models=[model] if model else [])
            if not model and not side.models:
                raise EndpointError(f"{url} does not tell its models; give --model.")
            chosen = model or side.models[0]
            told = await calibrate(side, chosen, key=key)
    except TimeoutError:
        raise EndpointError(f"{url} does not answer within {LOOK_S} s.") from None
    found = Found(model=chosen, plain=chosen in side.plain_models, **(told.model_dump() if told else {}))
    return replace(found, most_tokens=_most_tokens(side.contexts.get(chosen), found))


def _most_tokens(context: int | None, found: Found) -> int:
    """Of a file's conversation; its tokens are a guess from its words, so some of the context is left free."""
    return found.most_tokens if context is None else min(found.most_tokens, int(ROOM * context) - found.template_tokens)
