"""What all parts of a service need fails under a steady load: its disk is full, its clock is set. Nobody notices."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.access.key_store import KeyStore
from app.access.limits import Limits
from loadtests.faults.asks import Ask, stream, whole
from loadtests.faults.clock import Clock
from loadtests.faults.disk import Disk, DiskError, small_disk
from loadtests.faults.load import Load, Outcome
from loadtests.faults.measure import Measured, measure
from loadtests.faults.parts import Parts
from loadtests.faults.report import in_short
from loadtests.faults.service import VICTIM, Whole, surroundings
from loadtests.faults.strikes import Fault, Struck, kill
from tests.ports import own_port
from tests.serve.service import CORRAL, RunningService, running_corral
from tests.slurm import packages
from tests.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.serve, pytest.mark.timeout(600)]

COMPILER = {"cc": "gcc", "gencat": "libc6-dev"}
USERS: tuple[tuple[Ask, ...], ...] = ((stream(VICTIM, 24),), (stream(VICTIM),), (whole(VICTIM, 24),))
ASKED = {"model": VICTIM, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1}
BEFORE_MIDNIGHT = timedelta(hours=22, minutes=45)
"""What the service's clock shows (UTC) when it starts, so that two hours later it is another day."""
HOUR_S = 3600
MEANWHILE = 6
"""Complete answers while something is wrong."""


@dataclass(frozen=True)
class Place:
    """Where the service is: its disk, or why it has none of its own; its clock, or why it goes by everybody's."""

    disk: Disk | str
    clock: Clock | str
    folder: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("clock")
    reason = packages.why_not(COMPILER)
    clock = f"no clock that can be set: {reason}" if reason else Clock.made(folder)
    with ExitStack() as mounted:
        try:
            disk: Disk | str = mounted.enter_context(small_disk())
        except DiskError as error:
            disk = f"no disk that can be filled: {error}"
        yield Place(disk, clock, disk.folder if isinstance(disk, Disk) else folder)


@pytest.fixture(scope="module")
def service(place: Place) -> Iterator[RunningService]:
    """Of one model. When all is over its disk is filled once more: it has to end, and to write its usage down."""
    disk = None if isinstance(place.disk, str) else place.disk
    clock = None if isinstance(place.clock, str) else place.clock
    if clock:
        now = datetime.now(UTC)
        clock.set((now.replace(hour=0, minute=0, second=0) + BEFORE_MIDNIGHT - now).total_seconds())
    port = own_port()
    path = place.folder / "service.yaml"
    path.write_text(json.dumps(profile(place.folder, port)))
    state_dir = place.folder / "state"
    with ExitStack() as full:
        with running_corral("needs", path, port, state_dir, surroundings(disk, clock)) as service:
            yield service
            if disk:
                key = own_key(Parts(state_dir / "needs.json"))
                before = summed(by_day(service, key))["requests"]
                full.enter_context(disk.full())
                assert [ask(service.url, key).status_code for _ in range(MEANWHILE)] == [200] * MEANWHILE
                until(lambda: summed(by_day(service, key))["requests"] == before + MEANWHILE, what="their usage")
        if disk:
            kept = [in_ledger(file, key)["requests"] for file in state_dir.glob("needs-usage.*.db")]
            assert kept == [before + MEANWHILE], "usage is lost that was counted while the disk was full"


def profile(folder: Path, port: int) -> dict[str, Any]:
    return {
        "extends": "pocket",
        "edge": {"port": port},
        "access": {"keys": "required", "file": str(folder / "keys" / "keys.json")},
        "models": dict.fromkeys(("pocket-3b", "pocket-8b", "pocket-70b")),
        "rag": {"folder": str(folder / "rag")},
    }


@pytest.fixture(scope="module")
def parts(service: RunningService) -> Parts:
    return Parts(service.state_dir / f"{service.name}.json")


@pytest.fixture(scope="module")
def is_whole(parts: Parts) -> Whole:
    is_whole = Whole(parts)
    until(is_whole, what="a whole service")
    return is_whole


@pytest.fixture(scope="module")
def asked() -> list[Outcome]:
    """All that the load has asked so far, for usage to be compared with."""
    return []


def strike(parts: Parts, is_whole: Whole, asked: list[Outcome], name: str, fails: Callable[[Load], object]) -> Measured:
    with Load(parts.state["address"], USERS, parts.headers).going() as load:

        def struck(parts: Parts) -> Struck:
            fails(load)
            return Struck(name, lasting=True)

        measured = measure(parts, load, Fault(name, VICTIM, struck), is_whole.lacks)
    asked += load.outcomes
    print(in_short(measured))
    return measured


def answered_meanwhile(load: Load) -> None:
    began = load.clock()
    until(lambda: failures(load) or len(load.answered_since(began)) >= MEANWHILE, what="answers meanwhile")
    assert failures(load) == []


def failures(load: Load) -> list[str]:
    return [each.failure for each in load.outcomes if each.failure]


def test_a_full_disk_takes_lines_of_logs_and_nothing_else(
    place: Place, service: RunningService, parts: Parts, is_whole: Whole, asked: list[Outcome]
) -> None:
    if isinstance(place.disk, str):
        pytest.skip(place.disk)
    disk = place.disk

    def fills_up(load: Load) -> None:
        with disk.full():
            answered_meanwhile(load)
            told = service.corral("status")
            assert (told.returncode, "its disk is full" in told.stdout) == (0, True), told.stdout + told.stderr
            made = service.corral("keys", "create", "one-more", "--profile", str(service.profile))
            assert made.returncode != 0
            assert "No space left on device; free some room there; nothing was changed" in made.stderr
            answered_meanwhile(load)
            assert written(parts)["requests"] < len(load.outcomes), "there was room to write usage down"

    measured = strike(parts, is_whole, asked, "a full disk", fills_up)
    assert measured.failed == ()
    until(lambda: written(parts) == used_by(asked), what="all usage on the disk that has room again")
    told = service.corral("status")
    assert (told.returncode, "its disk is full" in told.stdout) == (0, False), told.stdout + told.stderr
    until(lambda: asked[-1].id in parts.edge_log.read_text(errors="replace"), what="the last request in the log")


def used_by(asked: list[Outcome]) -> dict[str, int]:
    """Every answer is as long as it may be."""
    return {"requests": len(asked), "completion_tokens": sum(each.ask.tokens for each in asked)}


def written(parts: Parts) -> dict[str, int]:
    """What the keeper's file says of the key that the load asks with."""
    return in_ledger(parts.run_dir / "edge" / "usage.db", own_key(parts))


def in_ledger(file: Path, key: str) -> dict[str, int]:
    columns = "coalesce(sum(requests), 0), coalesce(sum(completion_tokens), 0)"
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as usage:
        found = usage.execute(f"SELECT {columns} FROM usage WHERE key = ?", (key.split("-")[1],)).fetchone()
    return dict(zip(("requests", "completion_tokens"), found, strict=True))


def own_key(parts: Parts) -> str:
    return parts.headers["authorization"].split()[1]


def test_a_clock_that_is_set_moves_what_is_dated_and_no_duration(
    place: Place, service: RunningService, parts: Parts, is_whole: Whole, asked: list[Outcome]
) -> None:
    """Ahead, back, behind, back. While it is behind something dies, and is replaced."""
    if isinstance(place.clock, str):
        pytest.skip(place.clock)
    clock, right_s = place.clock, place.clock.ahead_s
    today = datetime.fromtimestamp(time.time() + right_s, UTC).date()
    keys = KeyStore(place.folder / "keys" / "keys.json")
    _, expiring = keys.create("expiring", expires=time.time() + right_s + HOUR_S)
    _, limited = keys.create("limited", limits=Limits(requests_per_minute=2))

    def status(key: str) -> int:
        return ask(service.url, key).status_code

    until(lambda: status(expiring) == 200 and status(limited) == 200, what="keys that are known")
    until(lambda: status(limited) == 429, what="the end of what may be asked in a minute")
    free_at = time.monotonic() + retry_after_s(service.url, limited)

    def is_set(load: Load) -> None:
        for hours, taken in ((2, 401), (0, 200), (-1, 200)):
            clock.set(right_s + hours * HOUR_S)
            until(lambda: status(expiring) == taken, what=f"{taken} for a key of an hour, {hours:+} h")  # noqa: B023
            answered_meanwhile(load)
            assert retry_after_s(service.url, limited) <= free_at - time.monotonic() + 2
        kill(parts.replicas("gateway"))
        until(is_whole, what="another gateway while the clock is behind")
        clock.set(right_s)
        answered_meanwhile(load)

    measured = strike(parts, is_whole, asked, "a clock that is set", is_set)
    assert measured.failed == ()
    assert measured.longest_s < HOUR_S
    until(lambda: summed(by_day(service, own_key(parts))) == used_by(asked), what="the usage of all requests")
    days = by_day(service, own_key(parts))
    assert set(days) == {str(today), str(today + timedelta(days=1))}
    assert min(day["requests"] for day in days.values()) >= MEANWHILE


def ask(url: str, key: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(
        f"{url}/v1/chat/completions", json=ASKED, headers=headers, timeout=PATIENCE_S, trust_env=False
    )  # fmt: skip


def retry_after_s(url: str, key: str) -> float:
    """Of a key that has asked for all that it may ask for."""
    refused = ask(url, key)
    assert refused.status_code == 429, refused.text
    assert refused.json()["error"]["code"] == "quota_requests"
    return float(refused.headers["retry-after"])


def by_day(service: RunningService, key: str) -> dict[str, dict[str, int]]:
    """What the service says of a key: requests and tokens of each day."""
    query = {"key": key.split("-")[1], "by": "day"}
    headers = {"authorization": f"Bearer {key}"}
    told = httpx.get(f"{service.url}/v1/usage", params=query, headers=headers, timeout=PATIENCE_S, trust_env=False)
    return {row["day"]: {name: row[name] for name in ("requests", "completion_tokens")} for row in told.json()["data"]}


def summed(days: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(day[name] for day in days.values()) for name in ("requests", "completion_tokens")}


def test_a_service_is_known_by_its_process_however_the_clock_is_set(service: RunningService, tmp_path: Path) -> None:
    """The kernel tells when it booted by the clock of now, and psutil when a process began by that."""
    told = Path("/proc/stat").read_text()
    (booted,) = [line for line in told.splitlines() if line.startswith("btime ")]
    later = tmp_path / "stat"
    later.write_text(told.replace(booted, f"btime {int(booted.split()[1]) + 2 * HOUR_S}"))
    moved = 'mount --bind "$0" /proc/stat && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", moved, str(later)]
    if reason := subprocess.run([*words, "true"], capture_output=True, text=True, check=False).stderr:
        pytest.skip(f"the time of the boot cannot be set: {reason.strip()}")
    done = subprocess.run(
        [*words, str(CORRAL), "status", "--json"], env=service.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["phase"] == "serving"
