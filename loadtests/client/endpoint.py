"""Who an endpoint is: its models, its version, what its requests may say, how its words become tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np

from loadtests.client.dialect import PLAIN, VLLM, dialect_of
from loadtests.client.events import count
from loadtests.client.exchange import HEADERS, hidden, hiding, message_of, trusting
from loadtests.client.prompts import sentences
from loadtests.records import Calibration, Kind, Point, Side

LOOK_S = 20
"""For each thing that is asked; a model that has to wake up first may take PROBE_S."""
PROBE_S = 300
SHORT, LONG = 12, 252
"""Words of the two prompts whose tokens are counted."""
LONGEST = 32 << 20
MOST_MODELS = 16
"""So many models' contexts are asked for."""
VIRTUAL = {Kind.TRIBUNAL: "tribunal", Kind.RAG: "rag"}


class EndpointError(Exception):
    """An endpoint that cannot be measured, worded for people."""


@dataclass(frozen=True)
class Said:
    """An answer's status, and its body if that is a JSON object."""

    status: int
    body: dict[str, Any]
    text: str = ""
    server: str = ""


class Door:
    """An endpoint, asked for one JSON object at a time."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def get(self, path: str) -> Said:
        return await self._ask("GET", path, None, LOOK_S)

    async def post(self, path: str, body: bytes, within_s: float = LOOK_S) -> Said:
        return await self._ask("POST", path, body, within_s)

    async def _ask(self, method: str, path: str, body: bytes | None, within_s: float) -> Said:
        """Raises EndpointError if nothing answers."""
        timeout = aiohttp.ClientTimeout(total=within_s)
        try:
            async with self._session.request(method, self._url + path, data=body, timeout=timeout) as response:
                raw = await response.content.read(LONGEST)
                while not response.content.at_eof() and len(raw) < LONGEST:
                    raw += await response.content.readany()
                text = hidden(message_of(raw))[:500]
                return Said(response.status, _object(raw), text, response.headers.get("Server", ""))
        except TimeoutError:
            raise EndpointError(f"{self._url} does not answer {path} within {within_s:g} s.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EndpointError(f"{self._url} does not answer: {str(error) or type(error).__name__}.") from None


def open_door(key: str | None, certificate: str = "") -> aiohttp.ClientSession:
    """certificate: a file that an https address is trusted by; empty where the authorities say so."""
    headers = HEADERS | ({"Authorization": f"Bearer {key}"} if key else {})
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting(certificate)), headers=headers)


def address(url: str) -> str:
    """The address without a trailing slash or /v1, with http:// if it has no scheme. Raises EndpointError.

    One with a name or password in it is refused: it would stand in the run's files.
    """
    if "@" in url:
        raise EndpointError(
            f"an address has no name and no password in it, and no @: write {url.rpartition('@')[2]!r}; the key goes "
            "into CORRAL_API_KEY, that of --against into the variable that --against-key-env names."
        )
    text = url.strip() if "://" in url else f"http://{url.strip()}"
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        right = False
    if not right:
        raise EndpointError(f"{url!r} is no address of an endpoint; one is http://127.0.0.1:8000.")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


async def look(
    url: str, *, key: str | None = None, name: str = "corral", models: Sequence[str] = (), certificate: str = ""
) -> Side:
    """What the endpoint says of itself. `models`: those to be measured, each of which is asked one token.

    Without `models` the first one that chats is. Raises EndpointError for an endpoint that does not answer or refuses
    the key, and for a model that it has not.
    """
    base = address(url)
    with hiding(key):
        async with open_door(key, certificate) as session:
            side = await _look(Door(session, base), base, name, models)
    return side.model_copy(update={"certificate": certificate})


async def _look(door: Door, base: str, name: str, models: Sequence[str]) -> Side:
    cards = await _cards(door, base)
    side = Side(name=name, url=base, server=await server_name(door), models=tuple(cards))
    for model in models:
        require(side, model)
    chatting = [model for model, card in cards.items() if card.get("task", "generate") == "generate"]
    plain = [model for model in (list(models) or chatting[:1]) if await _is_plain(door, model)]
    contexts = await _contexts(door, cards)
    everyone = plain and not models
    return side.model_copy(update={"plain_models": side.models if everyone else tuple(plain), "contexts": contexts})


def require(side: Side, model: str, kind: Kind = Kind.CHAT) -> None:
    """Raises EndpointError if the endpoint told its models and this is none of them."""
    prefix = VIRTUAL.get(kind, "")
    valid = {model, f"{prefix}/{model}", prefix if model == "default" else model}
    if not side.models or valid & set(side.models):
        return
    fit = [each for each in side.models if each.split("/")[0] == prefix] if prefix else side.models
    known = ", ".join(fit) or "none"
    raise EndpointError(f"{side.name} ({side.url}) has no model {model!r}; it has: {known}.")


def unfit(side: Side, point: Point) -> str | None:
    """Why a point cannot be measured, in words: its tokens are more than the model takes. None if it can be."""
    if point.own_lengths:
        return None
    most, asked = side.contexts.get(point.model), point.input_tokens + point.output_tokens
    if most is None or asked <= most:
        return None
    return (
        f"{point.model} takes {most} tokens; {point.input_tokens} of input and {point.output_tokens} of output are "
        f"{asked}"
    )


async def calibrate(side: Side, model: str, *, key: str | None = None) -> Calibration | None:
    """How many words of ours are a token of this model, and what its chat template adds. None: it does not tell.

    Asks /tokenize, else for answers of one token.
    """
    try:
        async with open_door(key, side.certificate) as session:
            door = Door(session, side.url)
            short, long = [await _tokens(door, side, model, words) for words in (SHORT, LONG)]
    except EndpointError:
        return None
    if short is None or long is None or long <= short:
        return None
    words_per_token = (LONG - SHORT) / (long - short)
    return Calibration(words_per_token=words_per_token, template_tokens=max(0, round(short - SHORT / words_per_token)))


async def _tokens(door: Door, side: Side, model: str, words: int) -> int | None:
    """Of a prompt of so many words, with the chat template."""
    text = sentences(np.random.default_rng(words), words)
    messages = [{"role": "user", "content": text}]
    said = await door.post("/tokenize", json.dumps({"model": model, "messages": messages}).encode())
    if said.status == 200 and (tokens := count(said.body.get("count"))) is not None:
        return tokens
    said = await door.post(
        "/v1/chat/completions", dialect_of(side, model).chat(model, text, 1, 0.0, stream=False), PROBE_S
    )
    usage = said.body.get("usage")
    return count(usage.get("prompt_tokens")) if isinstance(usage, dict) else None


async def _cards(door: Door, url: str) -> dict[str, dict[str, Any]]:
    """Model -> what /v1/models says of it; empty for an endpoint without a list."""
    said = await door.get("/v1/models")
    if said.status in (401, 403):
        raise EndpointError(f"{url} refuses the key: {said.text[:200]}")
    if said.status >= 500:
        raise EndpointError(f"{url} is there but answers {said.status} to /v1/models: {said.text[:200]}")
    listed = said.body.get("data")
    cards = [card for card in listed if isinstance(card, dict)] if isinstance(listed, list) else []
    return {card["id"]: card for card in cards if isinstance(card.get("id"), str)}


async def server_name(door: Door) -> str:
    """vLLM says its version; Corral says whether its models are ready; others have a header."""
    said = await door.get("/version")
    if said.status == 200 and isinstance(version := said.body.get("version"), str):
        return f"vLLM {version}"
    if isinstance((await door.get("/ready")).body.get("models"), dict):
        info = (await door.get("/openapi.json")).body.get("info")
        return f"Corral {info.get('version', '')}".strip() if isinstance(info, dict) else "Corral"
    return said.server


async def _is_plain(door: Door, model: str) -> bool:
    """Whether a model refuses vLLM's fields and takes the request without them."""
    first = await _probe(door, VLLM.chat(model, "Hello", 1, 0.0, stream=False))
    if first.status in (401, 403):
        raise EndpointError(f"the key is refused for {model}: {first.text[:200]}")
    if first.status not in (400, 422):
        return False
    return (await _probe(door, PLAIN.chat(model, "Hello", 1, 0.0, stream=False))).status == 200


async def _probe(door: Door, body: bytes) -> Said:
    return await door.post("/v1/chat/completions", body, PROBE_S)


async def _contexts(door: Door, cards: dict[str, dict[str, Any]]) -> dict[str, int]:
    """From the list, else from /tokenize of the models that run anyway: asking one that sleeps would wake it."""
    told = {model: most for model, card in cards.items() if (most := count(card.get("max_model_len")))}
    awake = [model for model, card in cards.items() if card.get("state") == "ready" and card.get("replicas")]
    rest = [model for model in awake if model not in told][:MOST_MODELS]
    asked = await asyncio.gather(*(_context(door, model) for model in rest))
    return told | {model: most for model, most in zip(rest, asked, strict=True) if most}


async def _context(door: Door, model: str) -> int | None:
    try:
        said = await door.post("/tokenize", json.dumps({"model": model, "prompt": "Hello"}).encode())
    except EndpointError:
        return None
    return count(said.body.get("max_model_len"))


def _object(raw: bytes) -> dict[str, Any]:
    try:
        read = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def names(points: Iterable[Point]) -> tuple[str, ...]:
    """The models of chat points, each once: what `look` should ask."""
    return tuple(dict.fromkeys(point.model for point in points if point.kind is Kind.CHAT))
