from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.unit.fake_hub import FakeHub, Server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeHub()
    server = Server(fake)
    fake.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    fake.free.set()
    server.shutdown()
    thread.join()
    server.server_close()
