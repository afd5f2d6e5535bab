"""The replica that a request is passed on to, and what happens when it is gone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import pytest

from app.relay import Upstream
from app.replica_urls import Addresses, ReplicaUrls
from app.services import Services
from app.web import create_app
from deployments.config import ModelSpec
from tests.unit.asgi import client_of
from tests.unit.fakes import FakeHerd, FakeModel

SPECS = (ModelSpec(id="a", source="org/a"),)
JSON = {"content-type": "application/json"}


class Controller:
    """Counts how often it is asked."""

    def __init__(self, *replicas: tuple[str, int]) -> None:
        self.replicas: Sequence[tuple[str, int]] = replicas
        self.asked = 0

    async def __call__(self) -> Addresses:
        self.asked += 1
        return {"model-a": self.replicas}


@pytest.mark.parametrize(
    ("serve", "replica", "url"),
    [
        ("127.0.0.1", ("10.0.0.7", 40001), "http://127.0.0.1:40001"),
        ("0.0.0.0", ("10.0.0.7", 40001), "http://10.0.0.7:40001"),
        ("10.0.0.1", ("10.0.0.7", 40001), "http://10.0.0.7:40001"),
        ("fd00::1", ("fd00::7", 40001), "http://[fd00::7]:40001"),
        ("127.0.0.1", ("10.0.0.7", 8000), None),
    ],
    ids=["Serve on loopback", "Serve everywhere", "Serve on the fabric", "IPv6", "only the proxy is known"],
)
async def test_url_of_a_replica(serve: str, replica: tuple[str, int], url: str | None) -> None:
    assert await ReplicaUrls((serve, 8000), SPECS, Controller(replica))("a") == url


async def test_another_url_than_the_one_that_failed() -> None:
    urls = ReplicaUrls(("10.0.0.1", 8000), SPECS, Controller(("10.0.0.7", 40001), ("10.0.0.8", 40001)))
    assert {await urls("a", "http://10.0.0.7:40001") for _ in range(20)} == {"http://10.0.0.8:40001"}
    alone = ReplicaUrls(("10.0.0.1", 8000), SPECS, Controller(("10.0.0.7", 40001)))
    assert await alone("a", "http://10.0.0.7:40001") is None


async def test_models_without_replicas_have_no_url() -> None:
    urls = ReplicaUrls(("127.0.0.1", 8000), SPECS, Controller())
    assert await urls("a") is None
    assert await urls("b") is None


async def test_without_a_controller_serve_is_asked() -> None:
    async def fail() -> Addresses:
        raise ValueError("no such actor")

    assert await ReplicaUrls(("127.0.0.1", 8000), SPECS, fail)("a") is None


async def test_controller_is_asked_again_only_after_a_while() -> None:
    now, controller = [0.0], Controller(("10.0.0.7", 40001))
    urls = ReplicaUrls(("127.0.0.1", 8000), SPECS, controller, clock=lambda: now[0])
    await urls("a")
    controller.replicas = [("10.0.0.7", 40002)]
    assert await urls("a") == "http://127.0.0.1:40001"
    now[0] = 1.0
    assert await urls("a") == "http://127.0.0.1:40002"
    assert controller.asked == 2


@dataclass
class Herd:
    """Model `a` on replicas, of which the ports in `failing` do not answer 200; `asked` are the URLs in turn."""

    replicas: Sequence[tuple[str, int]]
    failing: dict[int, Exception | int]
    asked: list[str] = field(default_factory=list)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        port = request.url.port or 0
        failure = self.failing.get(port, 200)
        if isinstance(failure, Exception):
            raise failure
        return httpx.Response(failure, headers=JSON, stream=httpx.ByteStream(b'{"port": %d}' % port))

    async def chat(self) -> httpx.Response:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer), base_url="http://serve:8000")
        urls = ReplicaUrls(("10.0.0.1", 8000), SPECS, Controller(*self.replicas))
        services = Services({"a": FakeModel("a")}, {"a": "a"}, FakeHerd.ready("a"), Upstream(client, urls))
        async with client_of(create_app(services)) as gateway:
            return await gateway.post("/v1/chat/completions", json={"model": "a", "messages": []})


@pytest.mark.parametrize("alive", [True, False])
async def test_replica_is_asked_itself_and_serve_when_it_is_gone(alive: bool) -> None:
    herd = Herd([("10.0.0.7", 40001)], {} if alive else {40001: httpx.ConnectError("refused")})
    assert (await herd.chat()).json() == {"port": 40001 if alive else 8000}
    paths = ["http://10.0.0.7:40001/models/a/v1/chat/completions", "http://serve:8000/models/a/v1/chat/completions"]
    assert herd.asked == (paths[:1] if alive else paths)


BROKEN = [httpx.RemoteProtocolError("broke off"), httpx.ReadError("reset"), 503]


@pytest.mark.parametrize("failure", BROKEN, ids=str)
async def test_another_replica_is_asked_once_where_one_had_not_begun(failure: Exception | int) -> None:
    """Of two replicas, one that fails: whichever is asked first, the client has the other one's answer."""
    for _ in range(8):
        herd = Herd([("10.0.0.7", 40001), ("10.0.0.7", 40002)], {40001: failure})
        answer = await herd.chat()
        assert (answer.status_code, answer.json()) == (200, {"port": 40002})
        assert len(herd.asked) == len(set(herd.asked)) <= 2


@pytest.mark.parametrize("failure", BROKEN, ids=str)
@pytest.mark.parametrize("replicas", [1, 2, 3])
async def test_failure_is_told_when_no_other_replica_does_better(failure: Exception | int, replicas: int) -> None:
    ports = [40001 + number for number in range(replicas)]
    herd = Herd([("10.0.0.7", port) for port in ports], dict.fromkeys(ports, failure))
    answer = await herd.chat()
    assert answer.status_code in (502, 503)
    assert len(herd.asked) == len(set(herd.asked)) == min(replicas, 2)


async def test_an_answer_that_is_not_503_is_the_answer() -> None:
    herd = Herd([("10.0.0.7", 40001), ("10.0.0.7", 40002)], {40001: 400, 40002: 400})
    assert (await herd.chat()).status_code == 400
    assert len(herd.asked) == 1
