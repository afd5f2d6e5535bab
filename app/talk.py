"""Talking to a service over HTTP from the command line: one prompt, or a chat with history."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import httpx

from app.reach import CONNECT_S, reach
from app.show import print_json
from deployments.retrieval.service import collection_of
from deployments.tribunal.config import tribunal_name

HELP = "/help  /model NAME  /models  /system TEXT  /clear  /history  /quit"
SILENCE_S = 600


class RefusedError(Exception):
    """The service refused the request; the message is its own."""


class UnreachableError(Exception):
    """Nothing answers at that address, or nothing serves that model now."""


class Talk:
    """A connection to one service."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    @classmethod
    def open(cls, name: str, url: str | None) -> Talk:
        """Connect to `url`, or to this person's own service. Raises NotRunningError."""
        return cls(httpx.Client(**reach(name, url, SILENCE_S)))

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._client.close()

    def models(self) -> list[str]:
        """Ids of the models that chat and answer now."""
        found = self._json("GET", "/v1/models")["data"]
        chatting = [model for model in found if model.get("task") == "generate"]
        return [model["id"] for model in chatting if model.get("state") in ("ready", "idle", "starting")]

    def default_model(self, model: str | None) -> str:
        """The model asked for, else the last one that is not virtual, which profiles make the largest."""
        if model:
            return model
        models = [each for each in self.models() if tribunal_name(each) is None and collection_of(each) is None]
        if not models:
            raise UnreachableError("no model answers now; `corral status` says why")
        return models[-1]

    def generate(self, model: str | None, prompt: str, max_tokens: int, temperature: float) -> dict[str, Any]:
        body = {"model": self.default_model(model), "prompt": prompt, "max_tokens": max_tokens,
                "temperature": temperature}  # fmt: skip
        return self._json("POST", "/generate", body)

    def bulk(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        return self._json("POST", "/bulk", {"items": items})

    def get(self, path: str) -> dict[str, Any]:
        """The answer as JSON. Raises RefusedError or UnreachableError."""
        return self._json("GET", path)

    def post(self, path: str, body: Any) -> dict[str, Any]:
        """The answer to a JSON body. Raises RefusedError or UnreachableError."""
        return self._json("POST", path, body)

    def upload(self, path: str, files: Sequence[tuple[str, tuple[str, bytes, str]]]) -> dict[str, Any]:
        """The answer to a form of files. Raises RefusedError or UnreachableError."""
        return self._json("POST", path, files=files)

    def stream(self, model: str, messages: list[dict[str, str]], max_tokens: int, temperature: float) -> Iterator[str]:
        """Pieces of one streamed chat answer, as they come."""
        body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": temperature,
                "stream": True}  # fmt: skip
        with self.opened("POST", "/v1/chat/completions", body) as response:
            yield from _pieces(response.iter_lines())

    @contextmanager
    def opened(
        self, method: str, path: str, body: Any = None, silence_s: float = SILENCE_S
    ) -> Iterator[httpx.Response]:
        """A response to be read as it comes; nothing for `silence_s` counts as no answer.

        Raises RefusedError or UnreachableError, the latter also where it breaks off while it is read.
        """
        timeout = httpx.Timeout(silence_s, connect=CONNECT_S)
        try:
            with self._client.stream(method, path, json=body, timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                    raise _error(response)
                yield response
        except httpx.HTTPError as error:
            raise UnreachableError(f"{self._client.base_url} does not answer: {error}") from error

    def _json(self, method: str, path: str, body: Any = None, files: Any = None) -> dict[str, Any]:
        try:
            response = self._client.request(method, path, json=body, files=files)
        except httpx.HTTPError as error:
            raise UnreachableError(f"{self._client.base_url} does not answer: {error}") from error
        if response.status_code != 200:
            raise _error(response)
        answer: dict[str, Any] = response.json()
        return answer


def _error(response: httpx.Response) -> Exception:
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {response.status_code}"
    return (RefusedError if response.status_code < 500 else UnreachableError)(message)


def _pieces(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        data = line.removeprefix("data: ")
        if data == line or data == "[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise UnreachableError(event["error"]["message"])
        for choice in event.get("choices", []):
            if piece := choice.get("delta", {}).get("content"):
                yield piece


class Chat:
    """A conversation: its model, its messages, and the commands that change them."""

    def __init__(self, talk: Talk, model: str, system: str | None, max_tokens: int, temperature: float) -> None:
        self._talk, self.model = talk, model
        self._system, self._max_tokens, self._temperature = system, max_tokens, temperature
        self.messages: list[dict[str, str]] = []
        self.clear()

    def clear(self) -> None:
        self.messages = [{"role": "system", "content": self._system}] if self._system else []

    def ask(self, text: str, show: Callable[[str], Any]) -> str:
        """Ask, show each piece as it comes, keep question and answer. A failed question is not kept."""
        question = {"role": "user", "content": text}
        answer = ""
        for piece in self._talk.stream(self.model, [*self.messages, question], self._max_tokens, self._temperature):
            show(piece)
            answer += piece
        self.messages += [question, {"role": "assistant", "content": answer}]
        return answer

    def command(self, line: str) -> str:
        """Obey a line that starts with a slash; returns what to print."""
        word, _, rest = line.partition(" ")
        if word == "/model" and rest:
            self.model = rest.strip()
            return f"model {self.model}"
        if word == "/system":
            self._system = rest.strip() or None
            self.clear()
            return "a new conversation"
        if word == "/clear":
            self.clear()
            return "a new conversation"
        if word == "/models":
            return "  ".join(self._talk.models())
        if word == "/history":
            return "\n".join(f"{message['role']}: {message['content']}" for message in self.messages)
        return HELP


def chat_loop(
    talk: Talk, model: str | None, system: str | None, max_tokens: int, temperature: float, *, as_json: bool
) -> None:
    """Read lines until the end of input or /quit. With as_json one JSON line for each answer."""
    chat = Chat(talk, talk.default_model(model), system, max_tokens, temperature)
    prompt = "" if as_json or not sys.stdin.isatty() else "> "
    if prompt:
        sys.stdout.write(f"{chat.model}. {HELP}\n")
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if line == "/quit":
            return
        if line:
            _turn(chat, line, as_json=as_json)


def _turn(chat: Chat, line: str, *, as_json: bool) -> None:
    if line.startswith("/"):
        sys.stdout.write(chat.command(line) + "\n")
        return
    try:
        answer = chat.ask(line, (lambda _: None) if as_json else _write)
    except RefusedError as error:
        sys.stderr.write(f"corral: {error}\n")
        return
    if as_json:
        print_json({"model": chat.model, "text": answer}, compact=True)
    else:
        sys.stdout.write("\n")


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
