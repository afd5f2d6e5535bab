from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator

import pytest

from app.cli import _guarded, app
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


Corral = Callable[[str], tuple[int, str, str]]
"""A command line -> exit code, standard output, standard error."""


@pytest.fixture
def corral(capsys: pytest.CaptureFixture[str]) -> Corral:
    def run(line: str) -> tuple[int, str, str]:
        code = _guarded(lambda: app(shlex.split(line), standalone_mode=False))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
