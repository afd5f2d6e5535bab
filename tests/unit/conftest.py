from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from app.access.key_store import KeyStore
from app.access.ledger import Ledger
from app.access.usage_tables import LedgerError
from app.cli import _guarded, app
from tests.unit.access_fakes import NOON, Clock, Desk, open_desk
from tests.unit.fake_hub import FakeHub, Server
from tests.unit.load_bench import on_a_thread
from tests.unit.load_client_fakes import Endpoint


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


@pytest.fixture
def bench_folder(bench_drawing: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, for tests that have no need of plots: they would take most of the time."""
    monkeypatch.setattr("loadtests.report.write.drawn", lambda contents: None)
    return bench_drawing


@pytest.fixture
def bench_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, no key in the environment, and no pause before a dead endpoint is asked again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CORRAL_API_KEY", raising=False)
    monkeypatch.setattr("loadtests.sweep.run.ASK_AGAIN_S", 0.01)
    return tmp_path


@pytest.fixture
def serving() -> Iterator[Callable[[Endpoint], str]]:
    """Starts an endpoint on a thread of its own; its address."""
    with ExitStack() as servers:
        yield lambda endpoint: servers.enter_context(on_a_thread(endpoint))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys_path(tmp_path: Path) -> Path:
    """Neither the file nor its folder is there yet."""
    return tmp_path / "keys" / "keys.json"


@pytest.fixture
def store(keys_path: Path, clock: Clock) -> KeyStore:
    return KeyStore(keys_path, clock)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path) as desk:
        yield desk


@pytest.fixture
def ledger_clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    """Neither the file nor its folder is there before a ledger is."""
    return tmp_path / "ledger" / "usage.sqlite"


@pytest.fixture
def ledger(ledger_path: Path, ledger_clock: Clock) -> Iterator[Ledger]:
    found = Ledger.open(ledger_path, clock=ledger_clock)
    yield found
    with suppress(LedgerError):
        found.close()
