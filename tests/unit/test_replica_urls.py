"""The replica that a request is passed on to, and what happens when it is gone."""

from collections.abc import Sequence

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


@pytest.mark.parametrize("alive", [True, False])
async def test_replica_is_asked_itself_and_serve_when_it_is_gone(alive: bool) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        if request.url.port == 40001 and not alive:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, stream=httpx.ByteStream(b'{"port": %d}' % (request.url.port or 0)))

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://serve:8000")
    urls = ReplicaUrls(("10.0.0.1", 8000), SPECS, Controller(("10.0.0.7", 40001)))
    model = FakeModel("a")
    services = Services({"a": model}, {"a": "a"}, FakeHerd.ready("a"), Upstream(client, urls))
    async with client_of(create_app(services)) as gateway:
        response = await gateway.post("/v1/chat/completions", json={"model": "a", "messages": []})
    assert response.json() == {"port": 40001 if alive else 8000}
    paths = ["http://10.0.0.7:40001/models/a/v1/chat/completions", "http://serve:8000/models/a/v1/chat/completions"]
    assert asked == (paths[:1] if alive else paths)
