"""A heterogeneous job: each model lands where its label says, and one that spans nodes stays within one group."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import pytest

from tests.serve.service import title
from tests.slurm.cluster import SlurmCluster
from tests.slurm.machines import REPOSITORY, inside, kill
from tests.slurm.service import CORRAL, SlurmService, profile, small_model
from tests.waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

GROUPS = [
    {"name": "large", "nodes": 1, "cpus": 3, "memory": "2 GiB", "gpus": 4, "gpu_type": "big", "labels": {"pool": "a"}},
    {
        "name": "small",
        "nodes": 2,
        "cpus": 3,
        "memory": "2 GiB",
        "gpus": 2,
        "gpu_type": "small",
        "labels": {"pool": "b"},
    },
]
PLACE = """
import json, ray
from ray.util import placement_group, placement_group_table
from deployments.config import ModelSpec
from deployments.models import llm_config
spec = ModelSpec(
    id="seventy", source="/nowhere", tensor_parallel=2, pipeline_parallel=2,
    hardware={"kind": "gpu", "labels": {"pool": "b"}, "cpus": 0.1},
)
bundle = llm_config(spec).placement_group_config["bundle_per_worker"]
ray.init(log_to_driver=False, logging_level="ERROR")
names = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes()}
group = placement_group([bundle] * spec.gpus, strategy=spec.hardware.strategy)
ray.get(group.ready(), timeout=60)
found = placement_group_table(group)["bundles_to_node_id"]
print(json.dumps(sorted(names[node] for node in found.values())))
"""


@pytest.fixture(scope="module")
def herd(slurm: SlurmCluster) -> Iterator[SlurmService]:
    """Two sizes on two groups; SLURM's controller is away for a while as `corral slurm up` follows."""
    service = SlurmService(slurm, slurm.alice, "mixed")
    slurm.tidy()
    models = {
        "eight": small_model(source="pocket:pocket-8b", hardware={"labels": {"pool": "a"}}),
        "one": small_model(hardware={"labels": {"group": "small"}}),
    }
    path = service.write_profile(profile(slurm, models, groups=GROUPS))
    up = slurm.login.popen(
        CORRAL, "slurm", "up", "--profile", str(path), user=service.user, env={"CORRAL_NAME": service.name}
    )
    try:
        until(lambda: service.folder.jobs.is_dir() and service.folder.latest(), what="a job")
        until(lambda: service.job.status(), what="its start")
        slurm.stop_controller()
        time.sleep(8)
        slurm.start_controller()
        assert inside(up)
        out, err = up.communicate(timeout=240)
    finally:
        kill(up)
    assert up.returncode == 0, err
    assert service.address.url in out
    yield service
    service.down()
    slurm.tidy()


def holders(herd: SlurmService, model: str) -> set[str]:
    """Nodes with a replica of the model."""
    titles = {node.name: [title(each) for each in node.processes(herd.user)] for node in herd.slurm.nodes}
    return {name for name, said in titles.items() if any(f"ServeReplica:model-{model}:" in each for each in said)}


def test_each_model_lands_where_the_profile_says(herd: SlurmService) -> None:
    assert holders(herd, "eight") == {"n1"}
    assert len(holders(herd, "one")) == 1
    assert holders(herd, "one") <= {"n2", "n3"}
    assert [herd.ask(model).status_code for model in ("one", "eight")] == [200, 200]


def test_ray_gives_out_the_gpus_of_the_allocation(herd: SlurmService) -> None:
    started = {node.name: " ".join(map(title, node.processes(herd.user))) for node in herd.slurm.nodes}
    counts = {name: said.partition("--num-gpus=")[2][:1] for name, said in started.items()}
    assert counts == {"n1": "4", "n2": "2", "n3": "2"}


def test_a_replica_over_two_nodes_is_placed_in_one_group(herd: SlurmService) -> None:
    """The placement group of a 70B's shape, two times two GPUs, out of the very code that deploys it."""
    record = json.loads(herd.job.cluster_file.read_text())
    variables = {"RAY_ADDRESS": record["gcs"], "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": record["token_path"]}
    said = herd.slurm.room["n1"].enter(
        sys.executable, "-c", PLACE, user=herd.user, cwd=REPOSITORY, env=variables, timeout_s=120
    )
    assert json.loads(said.stdout.splitlines()[-1]) == ["n2", "n2", "n3", "n3"]


def test_status_shows_groups(herd: SlurmService) -> None:
    assert {name: node["group"] for name, node in herd.status.nodes.items()} == {
        "n1": "large",
        "n2": "small",
        "n3": "small",
    }
