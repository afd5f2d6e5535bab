"""How Ray is started, alone on a host and on the nodes of a job: its ports, its commands, its environment."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from app.cluster import NAMED_PORTS, REPLICA_PORTS, Cluster, Place, Ports
from app.ports import NODE_BLOCKS, PortBlock

RUN = Path("/tmp/corral-7")
SHARED = Path("/shared/job")
GCS = "10.0.0.1:12000"
PLACE = Place(
    address="10.0.0.1", serve_host="0.0.0.0", token=SHARED / "token", progress=SHARED / "progress", gpus=2,
    node_timeout_s=6, resources={"label:group=main": 1.0},
)  # fmt: skip


@pytest.fixture
def block() -> Iterator[PortBlock]:
    block = PortBlock.reserve()
    yield block
    block.release()


@pytest.fixture
def head(block: PortBlock) -> Cluster:
    return Cluster(RUN, Ports.of_block(block, 20000), 4, 1 << 30, False, {}, PLACE)


@pytest.fixture
def worker(head: Cluster) -> Cluster:
    return replace(head, place=replace(PLACE, address="10.0.0.2", gcs=GCS))


@pytest.fixture
def alone() -> Cluster:
    return Cluster(RUN, Ports.choose(), None, 1 << 30, True, {})


def options(command: list[str]) -> dict[str, str]:
    return dict(word[2:].partition("=")[::2] for word in command if word.startswith("--"))


def test_a_blocks_ports_are_distinct_and_fill_it(block: PortBlock) -> None:
    ports = Ports.of_block(block, 20000)
    named = [getattr(ports, name) for name in NAMED_PORTS]
    assert sorted([*named, *ports.workers]) == list(range(block.first, block.first + NODE_BLOCKS.step))
    assert {each.name for each in fields(Ports)} == {*NAMED_PORTS, "replicas", "workers"}
    assert ports.replicas == 20000


def test_a_head_among_nodes_listens_on_its_address_with_pinned_ports(head: Cluster) -> None:
    ports, chosen = head.ports, options(head.head_command())
    assert {"block", "head", "disable-usage-stats"} <= chosen.keys()
    assert chosen["node-ip-address"] == "10.0.0.1"
    assert chosen["dashboard-host"] == "127.0.0.1"
    assert chosen["include-dashboard"] == "false"
    assert chosen["temp-dir"] == "/tmp/corral-7/ray"
    pinned = {
        "port": ports.gcs, "ray-client-server-port": ports.client, "dashboard-port": ports.dashboard,
        "dashboard-agent-listen-port": ports.agent, **node_ports(ports),
    }  # fmt: skip
    assert {name: chosen[name] for name in pinned} == {name: str(port) for name, port in pinned.items()}
    assert (chosen["num-cpus"], chosen["num-gpus"]) == ("4", "2")
    assert json.loads(chosen["resources"]) == {"label:group=main": 1.0}


def test_a_worker_joins_the_head_with_pinned_ports(worker: Cluster) -> None:
    ports, chosen = worker.ports, options(worker.worker_command())
    assert {"block", "disable-usage-stats"} <= chosen.keys()
    assert (chosen["address"], chosen["node-ip-address"]) == (GCS, "10.0.0.2")
    assert not {"head", "port", "dashboard-host", "dashboard-port", "ray-client-server-port"} & chosen.keys()
    assert {name: chosen[name] for name in node_ports(ports)} == {k: str(v) for k, v in node_ports(ports).items()}
    assert chosen["num-gpus"] == "2"
    assert json.loads(chosen["resources"]) == {"label:group=main": 1.0}


def node_ports(ports: Ports) -> dict[str, Any]:
    return {
        "node-manager-port": ports.node_manager, "object-manager-port": ports.object_manager,
        "runtime-env-agent-port": ports.runtime_env_agent, "dashboard-agent-grpc-port": ports.agent_grpc,
        "metrics-export-port": ports.metrics_export, "min-worker-port": ports.workers.start,
        "max-worker-port": ports.workers.stop - 1,
    }  # fmt: skip


def test_a_node_without_gpus_says_so(head: Cluster) -> None:
    assert options(replace(head, place=replace(PLACE, gpus=0)).head_command())["num-gpus"] == "0"


def test_alone_on_a_host_it_is_on_loopback_and_finds_the_rest_itself(alone: Cluster) -> None:
    chosen = options(alone.head_command())
    assert {"block", "head"} <= chosen.keys()
    assert chosen["node-ip-address"] == chosen["dashboard-host"] == "127.0.0.1"
    assert chosen["include-dashboard"] == "true"
    assert not {*node_ports(alone.ports), "num-cpus", "num-gpus", "resources"} & chosen.keys()


def test_ray_asks_for_the_token_and_keeps_its_files_in_the_run_folder(
    head: Cluster, worker: Cluster, alone: Cluster
) -> None:
    for cluster in (head, worker, alone):
        environment = cluster.environment()
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["TMPDIR"] == "/tmp/corral-7/tmp"
    assert alone.environment()["RAY_AUTH_TOKEN_PATH"] == "/tmp/corral-7/token"
    assert alone.environment()["CORRAL_PROGRESS_DIR"] == "/tmp/corral-7/progress"
    assert worker.environment()["RAY_AUTH_TOKEN_PATH"] == "/shared/job/token"
    assert worker.environment()["CORRAL_PROGRESS_DIR"] == "/shared/job/progress"


def test_only_among_nodes_vllm_is_told_an_address_and_dead_nodes_are_noticed_soon(
    head: Cluster, worker: Cluster, alone: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_HOST_IP", raising=False)
    assert [each.environment().get("VLLM_HOST_IP") for each in (head, worker, alone)] == ["10.0.0.1", "10.0.0.2", None]
    assert head.environment()["RAY_health_check_failure_threshold"] == "4"
    assert "RAY_health_check_failure_threshold" not in alone.environment()


def test_what_the_profile_adds_to_the_environment_wins(alone: Cluster) -> None:
    assert replace(alone, extra={"RAY_SERVE_HAPROXY_NBTHREAD": "2"}).environment()["RAY_SERVE_HAPROXY_NBTHREAD"] == "2"


def test_all_nodes_meet_at_the_heads_gcs(head: Cluster, worker: Cluster, alone: Cluster) -> None:
    assert head.ray_address == f"10.0.0.1:{head.ports.gcs}"
    assert worker.ray_address == worker.environment()["RAY_ADDRESS"] == GCS
    assert alone.ray_address == f"127.0.0.1:{alone.ports.gcs}"
    assert head.serve_address == f"127.0.0.1:{head.ports.serve}"


def test_a_replica_is_on_its_own_node_and_alone_on_loopback(head: Cluster, alone: Cluster) -> None:
    for port in (20000, 20000 + REPLICA_PORTS - 1):
        assert head.replica("10.0.0.2", port) == ("10.0.0.2", port)
    assert head.replica("10.0.0.2", 20000 + REPLICA_PORTS) is None
    assert head.replica("10.0.0.2", head.ports.serve) is None
    assert alone.replica("192.168.1.5", alone.ports.replicas) == ("127.0.0.1", alone.ports.replicas)


def test_the_head_makes_the_token_and_a_worker_leaves_it_alone(head: Cluster, worker: Cluster, tmp_path: Path) -> None:
    token = tmp_path / "shared-token"
    of_head = replace(head, run_dir=tmp_path / "head", place=replace(head.place, token=token))
    of_head.prepare()
    told = token.read_text()
    assert (len(told), stat.S_IMODE(token.stat().st_mode)) == (64, 0o600)
    replace(worker, run_dir=tmp_path / "worker", place=replace(worker.place, token=token)).prepare()
    assert token.read_text() == told
    for run_dir in (tmp_path / "head", tmp_path / "worker"):
        assert {stat.S_IMODE(path.stat().st_mode) for path in run_dir.iterdir()} == {0o700}
        assert (run_dir / "tmp").is_dir()
