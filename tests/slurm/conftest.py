from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm import image as images
from tests.slurm import packages, permissions
from tests.slurm.cluster import SlurmCluster

WEIGHTS = Path("/weights")
"""Where the image has the shared folder's weights; no machine has such a folder."""


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


@pytest.fixture(scope="session")
def image(slurm: SlurmCluster) -> Path:
    """Root's, in the shared folder beside the weights; it goes with the cluster."""
    if reason := images.why_not():
        pytest.skip(f"no container here: {reason}")
    (slurm.shared / "weights").mkdir()
    (slurm.shared / "weights/herd").write_text("llamas\n")
    try:
        return images.make_image(slurm.shared / "debian", (*images.PYTHON, slurm.shared, WEIGHTS))
    except images.NoImage as error:
        pytest.skip(f"no image here: {error}")
