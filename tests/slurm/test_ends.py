"""How services end, and begin again: walltime, preemption, scancel, the head's death. Each leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import shutil
import ssl
from collections.abc import Iterator

import httpx
import pytest

from app.allocation.records import Address
from app.monitoring.scrape import Scrape
from deployments.pocket import CHECKPOINTS
from tests.slurm.cluster import SlurmCluster
from tests.slurm.load import Balancer, Load
from tests.slurm.service import READY_S, SlurmService, nodes, profile, small_model
from tests.slurm.traces import listening, traces
from tests.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
MODEL = "pocket-1b"


@pytest.fixture
def service(slurm: SlurmCluster, request: pytest.FixtureRequest) -> Iterator[SlurmService]:
    """A name of alice's for the test; whatever it has left is ended."""
    service = SlurmService(slurm, slurm.alice, request.node.name.removeprefix("test_")[:20].replace("_", "-"))
    yield service
    service.down()
    slurm.tidy()


def test_walltime_under_load_hands_over(slurm: SlurmCluster, service: SlurmService) -> None:
    """No request fails: not of who reads the address file, nor of who keeps the old address while it says ready."""
    times = {"walltime": "0:04:00", "drain_s": 60, "lead_s": 120, "successor": True}
    service.up(profile(slurm, {MODEL: small_model()}, groups=nodes(1), **times))
    old = service.address
    following = Load(MODEL, lambda: service.address.url, service.key)
    with Balancer(old.url, service.key) as balancer:
        keeping = Load(MODEL, balancer, service.key)
        with keeping.going(), following.going():
            until(lambda: service.address.job_id != old.job_id, what="the successor's address")
            until(lambda: scraped(service) == [service.address.url], what="Prometheus's targets with it")
            until(lambda: len([each for each in following.outcomes if each.url != old.url]) > 20)
            until(lambda: not balancer.ready, what="the old address turned away")
            until(lambda: slurm.job(old.job_id)["JobState"] == "COMPLETED", what="the old job's end")
            seen = len(following.outcomes)
            until(lambda: len(following.outcomes) > seen + 10)
    print(f"{len(following.outcomes)} and {len(keeping.outcomes)} requests over a handover")
    assert following.failed == []
    assert keeping.failed == []
    assert len(keeping.outcomes) > 20


def scraped(service: SlurmService) -> list[str]:
    """Where Prometheus is told to look."""
    groups = json.loads((service.folder.path / "targets.json").read_text())
    return [f"{group['labels']['__scheme__']}://{target}" for group in groups for target in group["targets"]]


def test_preempted_and_requeued(slurm: SlurmCluster, service: SlurmService) -> None:
    """It comes back with the same address file; then scancel leaves no process, no port, no file."""
    service.up(profile(slurm, {MODEL: small_model()}, groups=nodes(1)))
    first = service.address
    urgent = slurm.sbatch("sleep 3", "-N3", "--exclusive", "--partition=urgent", user=slurm.bob)
    slurm.wait(urgent, "COMPLETED")
    until(lambda: slurm.job(first.job_id)["JobState"] == "RUNNING" and service.status.restarts == 1, what="a new start")
    service.until_ready()
    assert service.address.job_id == first.job_id
    assert service.address.since > first.since
    assert service.ask(MODEL).status_code == 200
    print(f"requeued: ready {service.start().costs().total} s after its end")

    node, port = service.address.node, service.address.port
    before = listening(slurm, node)
    slurm.scancel(str(first.job_id), user=slurm.alice)
    until(lambda: not traces(slurm, slurm.alice), what="nothing left")
    assert port in before
    assert not listening(slurm, node) & {each for each in before if each > 10_000}
    until(lambda: "CANCELLED" in service.corral("status", check=False).stderr, what="status says so")
    assert service.corral("status", check=False).returncode == 4


def test_the_heads_node_dies(slurm: SlurmCluster, service: SlurmService) -> None:
    """SLURM lets the job run on without its batch script; the other node ends it, by policy, and is left clean."""
    service.up(profile(slurm, {MODEL: small_model()}, groups=nodes(2), requeue=False))
    job_id, head = service.address.job_id, service.address.node
    slurm.crash(head)
    until(lambda: slurm.job(job_id)["JobState"] in ("NODE_FAIL", "CANCELLED"), what="the job's end")
    until(lambda: not traces(slurm, slurm.alice), what="nothing left on the other node")
    said = service.corral("status", check=False)
    assert said.returncode in (4, 5), said.stdout + said.stderr
    assert f"job {job_id} ended" in said.stderr


def test_down_ends_it_gently(slurm: SlurmCluster, service: SlurmService) -> None:
    """Its weights lie on the shared folder, and the node has read its own copy of them. Its address has TLS."""
    staged = slurm.shared / "staged"
    shutil.copytree(CHECKPOINTS / MODEL, staged)
    content = profile(slurm, {MODEL: small_model(source=str(staged))}, groups=nodes(1), copy_weights=True)
    path = service.write_profile({**content, "access": {"tls": {}}})
    ready = service.corral("up", "--profile", str(path), timeout_s=READY_S).stdout
    costs = service.start().costs()
    print(f"without a container: SLURM {costs.slurm}, container and Python {costs.container_and_python}")
    assert costs.copy is not None
    assert f"/tmp/corral-weights-{service.job.path.name}/staged-" in service.corral("logs", MODEL).stdout
    job_id = service.address.job_id
    assert_the_fingerprint_is_told(service, ready)
    trusted = ssl.create_default_context(cafile=service.address.certificate)
    look = httpx.get(
        f"{service.address.url}/metrics", headers=service.key, timeout=PATIENCE_S, trust_env=False, verify=trusted
    )
    told = Scrape.of(look.text, 0)
    assert told.total("corral_job_nodes", state="joined") == 1
    assert told.total("corral_job_ends_timestamp_seconds") == service.status.deadline
    service.corral("down")
    assert slurm.job(job_id)["JobState"] == "COMPLETED"
    assert Address.read(service.folder.address) is None
    assert scraped(service) == []
    assert traces(slurm, slurm.alice) == []


def assert_the_fingerprint_is_told(service: SlurmService, ready: str) -> None:
    """It is that of the certificate which the port shows. ready: what `corral slurm up` said at last."""
    address = service.address
    shown = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((address.host, address.port), timeout=PATIENCE_S))
    fingerprint = hashlib.sha256(shown).digest().hex(":").upper()
    assert address.url.startswith("https://")
    for said in (ready, service.corral("status").stdout):
        assert f"TLS      {fingerprint} (SHA-256)" in said.splitlines()
    assert f"TLS fingerprint      {fingerprint} (SHA-256)" in service.corral("connect").stdout.splitlines()
    assert service.json("status")["address"]["fingerprint"] == fingerprint
    assert service.json("connect")["fingerprint"] == fingerprint
