"""A step in a charliecloud container, as alice: what is the image's in there, and what is the node's."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.binds import Bind
from slurm.config import ClusterConfig, Container
from slurm.container import wrap
from slurm.folder import JobFolder
from slurm.script import JobSpec, render
from tests.slurm import image as images
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import WEIGHTS

pytestmark = pytest.mark.slurm


@pytest.fixture(autouse=True)
def tidy(slurm: SlurmCluster) -> Iterator[None]:
    yield
    slurm.tidy()


def container(slurm: SlurmCluster, image: Path) -> Container:
    binds = (*map(str, images.PYTHON), f"{slurm.shared / 'weights'}:{WEIGHTS}")
    return Container(kind="charliecloud", image=str(image), binds=binds)


def run_inside(slurm: SlurmCluster, image: Path, script: str, *options: str, before: str = "") -> list[str]:
    """The lines that alice's bash says in the image, on n1. `before` is what the job does first."""
    shared = Bind(slurm.shared, slurm.shared)
    wrapped = wrap(["bash", "-euc", script], container(slurm, image), [shared], workdir=slurm.alice.home)
    step = shlex.join(["srun", *wrapped.srun_flags, *wrapped.argv])
    job = slurm.sbatch(f"{before}\n{step}", "-wn1", *options, user=slurm.alice)
    state = slurm.wait(job, "COMPLETED", "FAILED")
    said = slurm.output(job, slurm.alice)
    assert state == "COMPLETED", said
    return said.splitlines()


def test_the_root_is_the_images_own(slurm: SlurmCluster, image: Path) -> None:
    assert images.MARK not in Path("/etc/os-release").read_text()
    script = f"grep -cx {images.MARK} /etc/os-release; type -P sbatch ch-run apt-get || echo none of these"
    assert run_inside(slurm, image, script) == ["1", "none of these"]


def test_nobody_can_write_into_the_image(slurm: SlurmCluster, image: Path) -> None:
    (said,) = run_inside(slurm, image, "[ -k /var/tmp ]; echo x 2>&1 >/var/tmp/x || :")
    assert said.endswith("Read-only file system")


def test_shared_folders_are_bound(slurm: SlurmCluster, image: Path) -> None:
    assert run_inside(slurm, image, f"pwd >where; cat {WEIGHTS}/herd") == ["llamas"]
    assert (slurm.alice.home / "where").read_text() == f"{slurm.alice.home}\n"


def test_tmp_and_shm_are_the_nodes(slurm: SlurmCluster, image: Path) -> None:
    run_inside(slurm, image, "for folder in /tmp /dev/shm; do echo hay >$folder/alices; done")
    assert slurm.room["n1"].enter("cat", "/tmp/alices", "/dev/shm/alices").stdout == "hay\nhay\n"


def test_the_environment_is_the_jobs(slurm: SlurmCluster, image: Path) -> None:
    before = "export GREETING='hello  \"there\"' LD_LIBRARY_PATH=/nowhere PYTHONPATH=/nowhere"
    say = 'printf "%s\\n" "$GREETING" "${LD_LIBRARY_PATH-}${PYTHONPATH-}" "$(id -un)" "$SLURM_PROCID"'
    gpus = 'echo "$CUDA_VISIBLE_DEVICES"'
    said = run_inside(slurm, image, f"{say}; {gpus}", "--gres=gpu:big:2", before=before)
    assert said == ['hello  "there"', "", "alice", "0", "0,1"]


def test_the_network_is_the_nodes(slurm: SlurmCluster, image: Path) -> None:
    node, other = slurm.room["n1"], slurm.room["n3"]
    said = run_inside(slurm, image, "readlink /proc/self/ns/net; uname -n; getent hosts n3")
    assert said[:2] == [str(Path(f"/proc/{node.pid}/ns/net").readlink()), node.name]
    assert said[2].split() == [other.address, other.name]


def test_this_python_runs_inside(slurm: SlurmCluster, image: Path) -> None:
    imports = "import sys, torch, ray, vllm, app.cli; torch.ones(2, 2) @ torch.ones(2, 2); print(sys.prefix)"
    said = run_inside(slurm, image, shlex.join([sys.executable, "-Pc", imports]))
    assert said[-1] == sys.prefix


def test_a_job_script_runs_every_node_inside(slurm: SlurmCluster, image: Path) -> None:
    folder, python = JobFolder(slurm.alice.home / "job"), slurm.shared / "python"
    slurm.login.enter("mkdir", "--parents", str(folder.logs), user=slurm.alice)
    python.write_text('#!/bin/bash\necho "$5 $6 $(grep VARIANT_ID /etc/os-release) $PWD"\n')
    python.chmod(0o755)
    config = ClusterConfig.model_validate(
        {
            "walltime": "5",
            "shared": slurm.shared,
            "groups": [{"nodes": 2}],
            "extra": ["--nodelist=n[1-2]"],
            "container": container(slurm, image),
        }
    )
    job = slurm.sbatch(render(JobSpec(config, "inside", folder.path, str(python))), user=slurm.alice)
    slurm.wait(job, "COMPLETED", "FAILED")
    said = [folder.node_log(node).read_text().splitlines()[-1] for node in ("n1", "n2")]
    assert said == [f"n1 head {images.MARK} {folder.path}", f"n2 worker {images.MARK} {folder.path}"]
