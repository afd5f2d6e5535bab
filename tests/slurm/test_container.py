"""The same job inside a Charliecloud image, and what the container costs."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import SlurmCluster
from tests.slurm.image import PYTHON
from tests.slurm.service import SlurmService, nodes, profile, small_model
from tests.slurm.traces import traces

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
MODEL = "pocket-1b"


@pytest.fixture(scope="module")
def herd(slurm: SlurmCluster, image: Path) -> Iterator[SlurmService]:
    """Two nodes, both in the image; the caches lie in the shared folder."""
    service = SlurmService(slurm, slurm.alice, "boxed")
    slurm.tidy()
    container = {"kind": "charliecloud", "image": str(image), "binds": [str(path) for path in PYTHON]}
    content = profile(slurm, {MODEL: small_model()}, groups=nodes(2), container=container, python=sys.executable)
    service.up(content)
    yield service
    service.down()
    slurm.tidy()


def test_it_answers_from_inside(herd: SlurmService) -> None:
    assert herd.ask(MODEL).status_code == 200
    roots = {
        Path(f"/proc/{process.pid}/root/etc/os-release").read_text()
        for node in herd.slurm.nodes
        for process in node.processes(herd.user)
        if "app.allocation.node" in process.cmdline() and Path(process.exe()).name.startswith("python")
    }
    assert len(roots) == 1
    assert "VARIANT_ID=corral-tests" in roots.pop()


def test_both_nodes_have_joined(herd: SlurmService) -> None:
    assert [node["state"] for node in herd.status.nodes.values()] == ["joined", "joined"]


def test_the_timeline_tells_what_the_container_cost(herd: SlurmService) -> None:
    costs = herd.start().costs()
    print(f"in a container: SLURM {costs.slurm}, container and Python {costs.container_and_python}")
    said = herd.corral("timeline").stdout
    print(said)
    assert costs.container_and_python is not None
    assert costs.overhead is not None
    assert "container" in said


@pytest.fixture(scope="module")
def bare(slurm: SlurmCluster, herd: SlurmService) -> Iterator[SlurmService]:
    """The same model beside it, on the host's own file system."""
    service = SlurmService(slurm, slurm.bob, "bare")
    service.up(profile(slurm, {MODEL: small_model()}, groups=nodes(1)))
    yield service
    service.down()


def test_a_request_costs_the_same_inside_and_outside(herd: SlurmService, bare: SlurmService) -> None:
    """A B A B A B on idle engines; a figure, not a bound: the machine is shared."""
    took: dict[str, list[float]] = {"inside": [], "outside": []}
    for _ in range(3):
        for name, service in (("inside", herd), ("outside", bare)):
            took[name] += [_seconds(service) for _ in range(40)]
    inside, outside = (statistics.median(each) * 1000 for each in took.values())
    print(f"a request of 24 tokens: {inside:.1f} ms inside, {outside:.1f} ms outside, ratio {inside / outside:.2f}")
    assert min(inside, outside) > 0


def _seconds(service: SlurmService) -> float:
    began = time.perf_counter()
    assert service.ask(MODEL).status_code == 200
    return time.perf_counter() - began


def test_it_leaves_nothing(herd: SlurmService) -> None:
    herd.corral("down")
    assert traces(herd.slurm, herd.user) == []
