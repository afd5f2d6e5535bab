"""Each part of a service is killed under a steady load: only requests that were on it fail, and it comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import psutil
import pytest

from loadtests.faults.asks import Ask
from loadtests.faults.load import Load
from loadtests.faults.measure import Measured, measure
from loadtests.faults.parts import Parts, title
from loadtests.faults.report import in_short
from loadtests.faults.service import BYSTANDER, CALLERS, USERS, VICTIM, Whole, profile
from loadtests.faults.strikes import Strikes
from tests.ports import own_port
from tests.serve.service import RunningService, running_corral
from tests.waiting import until

pytestmark = [pytest.mark.serve, pytest.mark.timeout(900)]

FAULTS = {each.name: each for each in Strikes(VICTIM).all()}
CUT = "stream cut off"
THINK_S = 0.5
"""Between a user's requests: replacements start on the cores that answer."""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service of this module's own."""
    folder, port = tmp_path_factory.mktemp("faults"), own_port()
    path = folder / "faults.yaml"
    path.write_text(json.dumps({**profile(folder), "edge": {"port": port}}))
    with running_corral("faults", path, port, folder / "state") as service:
        yield service


@pytest.fixture(scope="module")
def parts(broken: RunningService) -> Parts:
    return Parts(broken.state_dir / f"{broken.name}.json")


@pytest.fixture(scope="module")
def whole(parts: Parts) -> Whole:
    is_whole = Whole(parts)
    until(is_whole, what="a whole service")
    return is_whole


def strike(parts: Parts, whole: Whole, name: str, users: Sequence[Sequence[Ask]] = USERS) -> Measured:
    with Load(parts.state["address"], users, parts.headers, THINK_S).going() as load:
        measured = measure(parts, load, FAULTS[name], whole.lacks)
    print(in_short(measured))
    return measured


@pytest.mark.parametrize("name", ["engine", "replica"])
def test_what_one_replica_loses_its_sibling_answers(
    broken: RunningService, parts: Parts, whole: Whole, name: str
) -> None:
    """Only answers that had begun are lost; a dead engine's end with an error event.

    Struck again if no call over a handle was on it at that moment.
    """
    before = asked_elsewhere(broken)
    for _ in range(4):
        struck_with_callers(parts, whole, name)
        if again := asked_elsewhere(broken) - before:
            break
    print(f"asked again over handles: {again}")
    assert again > 0
    assert [title(each) for name in ("gateway", "tribunal") for each in parts.replicas(name) if has_torch(each)] == []


def struck_with_callers(parts: Parts, whole: Whole, name: str) -> None:
    measured = strike(parts, whole, name, (*USERS, *CALLERS))
    assert measured.others == ()
    assert {each.ask for each in measured.failed} <= {f"{VICTIM} streamed"}
    assert not [each for each in measured.failed if name == "engine" and each.seen.startswith(CUT)]
    untouched = {f"{VICTIM} whole", f"{VICTIM} generated", f"{BYSTANDER} whole", f"{BYSTANDER} streamed"}
    assert untouched | {"/v1/models", "bulk", "tribunal"} <= set(measured.untouched)


def asked_elsewhere(service: RunningService) -> int:
    """Calls over handles that lost their replica, as the service's own logs tell."""
    files = (service.state.ray_logs / "serve").glob("requests_*.log")
    return sum(path.read_text().count(f"a replica of {VICTIM} was lost before it answered") for path in files)


def has_torch(process: psutil.Process) -> bool:
    """As whoever unpickles an error of vLLM's has."""
    return any("libtorch" in each.path for each in process.memory_maps())


def test_a_killed_gateway_costs_what_was_on_it(parts: Parts, whole: Whole) -> None:
    measured = strike(parts, whole, "gateway")
    assert measured.others == ()
    assert {f"{VICTIM} streamed", f"{VICTIM} whole", f"{BYSTANDER} streamed"} <= set(measured.untouched)


@pytest.mark.parametrize("name", ["proxy", "controller", "gcs", "keeper"])
def test_nobody_notices(parts: Parts, whole: Whole, name: str) -> None:
    measured = strike(parts, whole, name)
    assert measured.failed == ()


def test_a_killed_edge_costs_what_was_under_way(parts: Parts, whole: Whole) -> None:
    """Who connects while there is none waits for the next one."""
    measured = strike(parts, whole, "edge")
    assert measured.others == ()
    assert len(measured.failed) <= measured.on_it
    assert "connection refused" not in measured.seen
