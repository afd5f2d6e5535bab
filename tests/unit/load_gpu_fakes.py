"""The bench on a GPU without one: endpoints on loopback that stand for its servers, each in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from aiohttp import web

from loadtests.gpu.combined import write_whole
from loadtests.gpu.conduct import Conductor
from loadtests.gpu.deadline import Deadline
from loadtests.gpu.llamas import Llama
from loadtests.gpu.options import Options, Sides
from loadtests.gpu.profile import Place, place_of
from loadtests.gpu.room import Room
from loadtests.gpu.tokenizer import TEMPLATE_TOKENS
from loadtests.servers import EnginePlan
from tests.unit.load_client_fakes import Body, Endpoint, answer, serving

NAMES = ("llama-3.2-1b", "llama-3.1-70b")
Up = Callable[[Place, str, float], AbstractContextManager[str]]


def words(body: Body) -> int:
    """A token for each word, and the template's."""
    return len(str(body["messages"][0]["content"]).split()) + TEMPLATE_TOKENS


async def tokenized(request: web.Request) -> web.Response:
    body = await request.json()
    return web.json_response({"count": words(body) if "messages" in body else 1, "max_model_len": 512})


def endpoint(version: str = "0.26.0") -> Endpoint:
    return Endpoint(
        stream=lambda body: answer(int(body["max_tokens"]), words(body)),
        models=NAMES,
        version=version,
        handlers={"/tokenize": tokenized},
    )


def options(out: Path, **changes: object) -> Options:
    """Four measurements a side for each model, whose folders are there."""
    small = {"models": NAMES, "concurrencies": (1, 2), "lengths": ((32, 4),), "repeats": 2, "requests_per_user": 1}
    made = Options(out=out, min_requests=2, max_seconds=10, dry=True, **{**small, **changes})  # type: ignore[arg-type]
    for llama in made.llamas:
        place_of(llama, made).folder.mkdir(parents=True, exist_ok=True)
    return made


@contextmanager
def threaded(endpoint: Endpoint) -> Iterator[str]:
    """Its address, while it serves from a loop in another thread."""
    ready, address, loop = threading.Event(), list[str](), asyncio.new_event_loop()
    end = asyncio.Event()

    async def serve() -> None:
        async with serving(endpoint) as url:
            address.append(url)
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


class Servers(Mapping[str, Up]):
    """Starts of both sides, as they came in `started`; `broken` sides do not start."""

    def __init__(self, version: str = "0.26.0", broken: Mapping[str, Exception] | None = None) -> None:
        self.version, self.broken = version, dict(broken or {})
        self.started: list[str] = []
        self.endpoints: dict[str, Endpoint] = {}

    def __getitem__(self, side: str) -> Up:
        @contextmanager
        def up(place: Place, model: str, within_s: float) -> Iterator[str]:
            self.started.append(f"{model}/{side}")
            if side in self.broken:
                raise self.broken[side]
            self.endpoints[side] = endpoint(self.version)
            with threaded(self.endpoints[side]) as url:
                yield url

        return up

    def __iter__(self) -> Iterator[str]:
        return iter(("corral", "vllm"))

    def __len__(self) -> int:
        return 2


def rooms(asked: Options) -> dict[str, Room]:
    """The first model's servers stand side by side, the others' one after the other."""
    kinds = [Sides.TOGETHER, *[Sides.IN_TURN] * 3]
    return {each.name: Room(kind, "room enough") for each, kind in zip(asked.llamas, kinds, strict=False)}


def conductor(asked: Options, servers: Servers, said: list[str], deadline: Deadline | None = None) -> Conductor:
    def engine(place: Place, model: str) -> EnginePlan:
        return EnginePlan(model, ("--model", str(place.model), "--load-format", "dummy"), {})

    def write(options: Options, *, plots: bool) -> object:
        return write_whole(options, plots=False)

    return Conductor(asked, rooms(asked), deadline or Deadline(), said.append, servers, engine, write)


def kept(llama: Llama, asked: Options, stint: str) -> list[dict[str, object]]:
    """The measurements that lie in a stint's folder."""
    lines = (place_of(llama, asked).runs / stint / "measurements.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
