"""What a cluster cannot give is told in one line with the field; before anything is submitted, if it can be known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.slurm.cluster import SlurmCluster
from tests.slurm.service import CORRAL, SlurmService, nodes, profile, small_model
from tests.slurm.traces import traces
from tests.waiting import until

pytestmark = pytest.mark.slurm
MODELS = {"pocket-1b": small_model()}


def refused(service: SlurmService, content: dict[str, Any]) -> str:
    """What `up` says; nothing is in the queue."""
    path = service.write_profile(content)
    done = service.corral("up", "--profile", str(path), check=False)
    assert done.returncode not in (0, 1), done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if "warning:" not in line]
    assert len(lines) == 1, done.stderr
    assert service.slurm.squeue("--noheader", "--user", service.user.name) == ""
    return lines[0]


@pytest.fixture
def service(slurm: SlurmCluster) -> SlurmService:
    return SlurmService(slurm, slurm.bob, "never")


@pytest.mark.parametrize(
    ("cluster", "field", "would_work"),
    [
        ({"partition": "gpus"}, "cluster.partition", "debug"),
        ({"partition": "short"}, "cluster.walltime", "0-00:05:00"),
        ({"partition": "members"}, "partition", "members"),
        ({"partition": "paid", "account": "nosuch"}, "account", ""),
        ({"groups": nodes(1, gpus=5)}, "cluster.groups.main.gpus", "at most 4"),
        ({"groups": nodes(1, gpus=1, gpu_type="h900")}, "gpu_type", "big, small"),
        ({"groups": nodes(4)}, "cluster.groups.main.nodes", "at most 3"),
        ({"groups": nodes(1, cpus=64)}, "cluster.groups.main.cpus", "at most 4"),
        ({"shared": "/no/such/folder"}, "cluster.shared", "folder"),
        ({"walltime": "soon"}, "cluster.walltime", "HH:MM:SS"),
        ({"partiton": "debug"}, "partiton", "partition"),
    ],
)
def test_one_line_names_the_field(
    slurm: SlurmCluster, service: SlurmService, cluster: dict[str, Any], field: str, would_work: str
) -> None:
    line = refused(service, profile(slurm, MODELS, **{"groups": nodes(1), **cluster}))
    assert field in line
    assert would_work in line


def test_a_label_that_no_group_has(slurm: SlurmCluster, service: SlurmService) -> None:
    models = {"pocket-1b": small_model(hardware={"labels": {"pool": "fast"}})}
    assert "pool" in refused(service, profile(slurm, models, groups=nodes(1)))


def test_no_sbatch_here(slurm: SlurmCluster, service: SlurmService) -> None:
    path = service.write_profile(profile(slurm, MODELS))
    alone = f"PATH={Path(CORRAL).parent}"
    argv = ("/usr/bin/env", alone, CORRAL, "slurm", "up", "--profile", str(path))
    done = slurm.login.enter(*argv, user=service.user, check=False)
    assert done.returncode == 9
    assert "login node" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_nodes_do_not_see(slurm: SlurmCluster, service: SlurmService) -> None:
    """It cannot be known before; `up` ends soon and says which field it is."""
    mine = f"/tmp/of-{service.user.name}"
    slurm.login.enter("mkdir", mine, user=service.user)
    path = service.write_profile(profile(slurm, MODELS, groups=nodes(1), shared=mine))
    done = service.corral("up", "--profile", str(path), check=False)
    assert done.returncode == 5, done.stderr
    assert "shared" in done.stderr.splitlines()[-1]
    assert mine in done.stderr.splitlines()[-1]


def test_a_node_that_does_not_come_is_named_with_its_log(slurm: SlurmCluster, service: SlurmService) -> None:
    setup = ['[ "$(hostname)" != n2 ]']
    content = profile(slurm, MODELS, groups=nodes(3), setup=setup, nodes_timeout_s=10)
    done = service.corral("up", "--profile", str(service.write_profile(content)), check=False)
    assert done.returncode == 5, done.stderr
    assert "node n2 did not join within 10 s" in done.stderr.splitlines()[-1]
    assert str(service.job.node_log("n2")) in done.stderr.splitlines()[-1]
    until(lambda: not traces(slurm, service.user), what="nothing left")


def test_a_full_cluster_shows_the_reason(slurm: SlurmCluster, service: SlurmService) -> None:
    holder = slurm.sbatch("sleep 300", "-N3", "--exclusive", user=slurm.alice)
    slurm.wait(holder, "RUNNING")
    job_id = service.submit(profile(slurm, MODELS, groups=nodes(1)))
    try:
        until(lambda: _reason(service) in ("Resources", "Priority"), what="the reason")
        assert "waiting" in service.corral("status").stdout
        again = service.corral("up", "--profile", str(service.user.home / "never.yaml"), check=False)
        assert again.returncode == 5
        assert str(job_id) in again.stderr
    finally:
        service.corral("down")
        slurm.scancel(str(holder), user=slurm.alice)
    until(lambda: slurm.job(job_id)["JobState"] == "CANCELLED")


def _reason(service: SlurmService) -> str:
    return str(service.json("status")["job"]["reason"])
