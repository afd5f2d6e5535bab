from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm import packages, permissions
from tests.slurm.cluster import SlurmCluster


@pytest.fixture(scope="session")
def may_make_machines() -> None:
    """Skips where there can be no cluster, and says why."""
    if reason := packages.why_not() or permissions.why_not():
        pytest.skip(f"no SLURM cluster here: {reason}")


@pytest.fixture(scope="session")
def slurm(may_make_machines: None) -> Iterator[SlurmCluster]:
    """One cluster for the session: leave its nodes idle."""
    with SlurmCluster() as cluster:
        yield cluster
