"""The whole way on a real SLURM: submitted from the login machine, over three nodes, through crashes, to its end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.allocation.records import Address
from deployments.principal import Principal
from deployments.secret import secret_of
from tests.serve.service import title
from tests.slurm import packages, strangers
from tests.slurm.cluster import SlurmCluster
from tests.slurm.cut import NetworkCut
from tests.slurm.load import Balancer, Load
from tests.slurm.machines import inside, kill
from tests.slurm.service import SlurmService, nodes, profile, small_model
from tests.slurm.traces import traces
from tests.waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

TWO_REPLICAS = {"autoscaling": {"min_replicas": 2, "max_replicas": 2}}


@pytest.fixture(scope="module")
def before(slurm: SlurmCluster) -> set[str]:
    """What other tests left on the nodes."""
    return set(traces(slurm, slurm.alice))


def three_nodes(slurm: SlurmCluster) -> dict[str, Any]:
    """The profile."""
    return profile(slurm, {"pocket-1b": small_model(**TWO_REPLICAS)}, groups=nodes(3), node_timeout_s=3)


@pytest.fixture(scope="module")
def herd(slurm: SlurmCluster, before: set[str]) -> Iterator[SlurmService]:
    """Alice's service: three nodes, one model with two replicas, each on a node of its own."""
    service = SlurmService(slurm, slurm.alice, "herd")
    slurm.tidy()
    seen = service.up(three_nodes(slurm))
    (service.user.home / "seen").write_text(seen)
    until(lambda: service.status.degraded is None, what="both replicas")
    yield service
    service.down()
    slurm.tidy()


def test_a_person_sees_what_goes_on(herd: SlurmService) -> None:
    seen = (herd.user.home / "seen").read_text()
    for word in (f"job {herd.address.job_id}", "n1", "n2", "n3", "pocket-1b", "ready"):
        assert word in seen


def test_chat_with_the_first_key_from_another_address(herd: SlurmService) -> None:
    """From the host, which is no machine of the cluster."""
    answer = herd.ask("pocket-1b")
    assert answer.status_code == 200, answer.text
    assert "Corral" in answer.json()["choices"][0]["message"]["content"]


ASK = """
import sys, httpx
key = sys.stdin.read()
answer = httpx.get(sys.argv[1], headers={"authorization": key} if key else {}, trust_env=False)
print(answer.status_code, answer.text)
"""


def test_another_user_needs_a_key_and_cannot_read_it(herd: SlurmService) -> None:
    login, bob = herd.slurm.login, herd.slurm.bob

    def told(key: str) -> str:
        return login.enter(sys.executable, "-c", ASK, f"{herd.address.url}/v1/models", user=bob, text=key).stdout

    stolen = login.enter("cat", str(herd.key_file), user=bob, check=False)
    assert (stolen.stdout, "Permission denied" in stolen.stderr) == ("", True)
    assert login.enter("cat", str(herd.key_file), user=herd.user).stdout.startswith("corral-")
    refused = told("")
    assert refused.startswith("401 ")
    assert "missing_api_key" in refused
    answered = told(herd.key["authorization"])
    assert answered.startswith("200 ")
    assert "pocket-1b" in answered


def test_another_profile_is_applied_and_is_what_the_next_job_starts_with(herd: SlurmService) -> None:
    done = herd.apply({**three_nodes(herd.slurm), "bulk": {"max_items": 1}})
    assert (done["phase"], done["plan"]["settings"]) == ("done", ["bulk.max_items"])
    assert json.loads(herd.folder.settings.read_text())["bulk"]["max_items"] == 1
    items = [{"model": "pocket-1b", "prompt": "Hi."}] * 2
    refused = httpx.post(f"{herd.address.url}/bulk", json={"items": items}, headers=herd.key, trust_env=False)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "items")
    assert herd.json("status")["change"]["phase"] == "done"


def test_each_node_has_joined_with_its_cpus(herd: SlurmService) -> None:
    assert {name: node["state"] for name, node in herd.status.nodes.items()} == dict.fromkeys(
        ("n1", "n2", "n3"), "joined"
    )
    assert herd.status.degraded is None


def test_status_list_and_connect_say_where_it_is(herd: SlurmService) -> None:
    url = herd.address.url
    assert url in herd.corral("status").stdout
    ways = herd.corral("connect").stdout
    assert url in ways
    assert f"export CORRAL_API_KEY=$(cat {herd.key_file})" in ways
    assert herd.key_file.read_text().strip() not in ways
    (line,) = [line for line in herd.corral("list").stdout.splitlines() if "herd" in line]
    assert str(herd.address.job_id) in line


PROMETHEUS = {"prometheus": "prometheus"}
QUERY = """
import sys, httpx
try:
    answer = httpx.get("http://127.0.0.1:9090/api/v1/query", params={"query": sys.argv[1]}, trust_env=False)
    print(answer.text)
except httpx.TransportError:
    print("{}")
"""


def test_prometheus_on_the_login_machine_scrapes_the_job(herd: SlurmService) -> None:
    """Debian's, started by the command that is printed, with nothing but what alice has there."""
    if reason := packages.why_not(PROMETHEUS):
        pytest.skip(f"no Prometheus here: {reason}")
    login, written = herd.slurm.login, herd.monitoring()
    log = Path(written["folder"]) / "log"

    def told(expression: str) -> list[dict[str, Any]]:
        said = login.enter(sys.executable, "-c", QUERY, expression, user=herd.user).stdout
        found = json.loads(said) if said.startswith("{") else {}  # not JSON while it starts
        result: list[dict[str, Any]] = found.get("data", {}).get("result", [])
        return result

    # Its output would fill a pipe that nobody reads.
    started = login.popen("sh", "-c", f"exec {written['command']} >{log} 2>&1", user=herd.user)
    try:
        (up,) = until(lambda: told('up{job="corral"} == 1'), what=f"a scrape (see {log})")
        assert up["metric"]["instance"] == f"{herd.address.host}:{herd.address.port}"
        until(lambda: told('vllm:num_requests_running{corral_model="pocket-1b"}'), what="an engine's figures")
        inside(started).terminate()
        until(lambda: started.poll() is not None, what="its end")
    finally:
        kill(started)
        started.communicate()


def test_logs_of_all_nodes_can_be_read_on_the_login_machine(herd: SlurmService) -> None:
    said = herd.corral("logs", "pocket-1b").stdout
    assert "pocket-1b" in said


def test_what_it_leaves_on_the_shared_folder_is_for_its_owner_alone(herd: SlurmService) -> None:
    for path in (herd.key_file, herd.job.token, herd.folder.settings, herd.folder.address, herd.job.status_file):
        assert path.stat().st_mode & 0o077 == 0, path
    looked = herd.slurm.login.enter("ls", str(herd.folder.path), user=herd.slurm.bob, check=False)
    assert "Permission denied" in looked.stderr


def test_rays_dashboard_listens_on_loopback_alone(herd: SlurmService) -> None:
    block = herd.address.port - 13  # the edge's is the last of a node's named ports
    said = [line.split()[3] for line in herd.slurm.room["n1"].enter("ss", "-Hltn").stdout.splitlines()]
    assert f"{herd.address.host}:{herd.address.port}" in said
    assert [address for address in said if address.endswith(f":{block + 3}")] in ([], [f"127.0.0.1:{block + 3}"])


def test_a_stranger_on_a_node_gets_nothing_without_a_key(herd: SlurmService) -> None:
    """From every port and socket of the service, and from its files: refusals, health, and the page's own files.

    Nor from /proc, where all may read command lines. Not even by claiming to be a key whose id is known, or somebody
    with every scope.
    """
    slurm, address = herd.slurm, herd.address
    found = strangers.ports(slurm, herd.user)
    folders = ["/tmp", "/dev/shm"]
    claims = {"x-key": herd.key_file.read_text().split("-")[1], "x-corral-principal": Principal().to_header()}
    since = herd.folder.settings.stat().st_mtime
    visits = [strangers.visit(node, slurm.bob, herd.user, found, folders, claims, since) for node in slurm.nodes]
    replies = [reply for visit in visits for reply in visit.replies]
    at_edge = [reply for reply in replies if reply.port.number == address.port and reply.path == "/v1/models"]
    assert {reply.status for reply in at_edge} == {401}
    assert all(any(reply.is_http for reply in visit.replies) for visit in visits)
    for node, visit in zip(slurm.nodes, visits, strict=True):
        assert visit.calls, node.name
        assert any(f"/tmp/corral-{address.job_id}" in path for path in visit.tried), (node.name, visit.tried)
        assert any("app.allocation" in text for text in visit.processes.values()), node.name
    answered = {method for visit in visits for each in visit.calls for method in each.answered}
    assert set(strangers.EVERYBODYS) <= answered, "SECURITY.md says that everybody may call these"
    leaks = [f"from {node.name}: {leak}" for node, visit in zip(slurm.nodes, visits, strict=True)
             for leak in visit.leaks((address.host, address.port), secrets(herd))]  # fmt: skip
    assert not leaks, "\n".join(["leaks:", *leaks, "all that was said:", strangers.by_port(replies)])


def secrets(herd: SlurmService) -> list[str]:
    """Of a key its secret part: the id is in logs."""
    return [herd.key_file.read_text().strip().rpartition("-")[2], herd.job.token.read_text().strip(),
            secret_of(herd.job.token)]  # fmt: skip


def test_slurm_gives_a_stranger_no_job_script(herd: SlurmService) -> None:
    """Nor do job script and command hold a secret, for whoever may read them."""
    slurm, job = herd.slurm, str(herd.address.job_id)
    asked = ("scontrol", "write", "batch_script", job, "-")
    assert "#SBATCH" not in slurm.login.enter(*asked, user=slurm.bob, check=False).stdout
    script = slurm.login.enter(*asked, user=herd.user).stdout
    assert "#SBATCH" in script
    told = script + slurm.login.enter("scontrol", "-dd", "show", "job", job, user=slurm.bob).stdout
    assert job in told
    assert not any(secret in told for secret in secrets(herd))


@pytest.mark.parametrize("who", ["bob", "alice"])
def test_two_jobs_share_a_node(herd: SlurmService, who: str) -> None:
    """Of two users or of one: each answers with its own models, and one's end does not touch the other."""
    slurm = herd.slurm
    other = SlurmService(slurm, getattr(slurm, who), f"other-{who}")
    content = profile(slurm, {"others-llama": small_model(hardware={"cpus": 1})}, groups=nodes(1, cpus=1))
    other.up(content)
    try:
        assert other.address.node in herd.status.nodes
        assert other.address.url != herd.address.url
        assert other.ask("others-llama").status_code == 200
        assert other.ask("pocket-1b").status_code == 404
        assert herd.ask("pocket-1b").status_code == 200
        listed = {line.split()[0] for line in herd.corral("list").stdout.splitlines()}
        assert {"herd", other.name} & listed == ({"herd"} if who == "bob" else {"herd", other.name})
    finally:
        other.down()
    left = f"corral-{other.job.record().job_id}"  # type: ignore[union-attr]
    until(lambda: not [each for each in traces(slurm, other.user) if left in each], what="nothing left of it")
    assert herd.ask("pocket-1b").status_code == 200
    assert herd.status.degraded is None


@pytest.mark.parametrize("from_all", [False, True], ids=["from_the_head", "from_all_nodes"])
def test_a_network_cut_under_load_costs_what_was_in_flight_beyond(
    herd: SlurmService, tmp_path: Path, from_all: bool
) -> None:
    """Two replicas serve again while it lasts, and nothing runs on beyond it. Afterwards the node is back by itself.

    Cut from the head alone, the node stays in its job and its worker joins again. Cut from all, SLURM takes the node
    for dead: its job ends there, and a job of one node comes in its place.
    """
    slurm = herd.slurm
    victim = slurm.room[next(name for name in ("n3", "n2") if _holds_a_replica(herd, name))]
    cut = NetworkCut(herd, victim, from_all, tmp_path)
    jobs, job = cut.jobs(), cut.joined_by()
    with cut.load.going() as load:
        measured = cut.measured()
        until(lambda: not cut.beyond(), what="the end of Ray beyond the cut")
        if from_all:
            until(lambda: slurm.node_states()[victim.name].startswith("down"), what="SLURM's notice")
            until(lambda: not victim.processes(herd.user), what="the end of all that ran there")
        assert herd.status.nodes[victim.name]["state"] == "lost"
        cut.heal()
        if from_all:
            slurm.restart_slurmd(victim.name)
        until(lambda: cut.joined_by() not in ((0, job) if from_all else (0,)), what="a worker on it")
        until(lambda: herd.status.nodes[victim.name]["state"] == "joined", what="the node back")
        until(lambda: herd.status.degraded is None, what="whole")
        joined = load.clock()
        until(lambda: cut.answered_since(joined) >= 6, what="answers")
    print(cut.told(measured, joined))
    assert measured.failed or measured.retried
    assert measured.others == ()
    assert not [each for each in measured.failed if each.seen.startswith("no end")]
    assert cut.failed_since(cut.healed) == []
    assert sorted(cut.replicas().values()) == [1, 1]
    assert_nothing_was_served_twice(cut)
    # Once more at most: on two busy cores a Ray that starts may not answer the head in time.
    assert len(cut.events("node lost")) <= 2, "it joins and is lost again and again"
    if not from_all:
        assert cut.joined_by() == job
        until(lambda: cut.jobs() == jobs, what="no spare job left")


def assert_nothing_was_served_twice(cut: NetworkCut) -> None:
    """An engine was asked as often as the edge did, on either side of the cut; the logs of all nodes are here."""
    until(lambda: cut.streams() <= cut.engine_lines().keys(), what="a line of each answer")
    tries = cut.tries()
    assert {request: count for request, count in cut.engine_lines().items() if count > tries[request]} == {}
    one = max(cut.streams())
    told = cut.herd.corral("logs", "--request", one).stdout
    assert "/edge.log: " in told
    assert "/requests_model-pocket-1b_" in told
    assert all(one in line for line in told.splitlines())


def test_a_node_crash_under_load_costs_what_was_in_flight_there(herd: SlurmService) -> None:
    """Then the service is whole again on the node that was idle, and a node that comes back joins anew."""
    slurm = herd.slurm
    victim = next(name for name in ("n3", "n2") if _holds_a_replica(herd, name))
    with Load("pocket-1b", lambda: herd.address.url, herd.key).going() as load:
        until(lambda: len(load.outcomes) > 20)
        before = len(load.failed)
        moment = time.time()
        slurm.crash(victim)
        until(lambda: herd.status.nodes[victim]["state"] == "lost", what="the loss seen")
        seen = time.time()
        until(lambda: herd.replicas("pocket-1b") == 1, what="a replica gone")
        until(lambda: victim in (herd.status.degraded or ""), what="the reason given")
        until(lambda: herd.replicas("pocket-1b") == 2, what="two replicas again")
        whole = time.time()
        until(lambda: load.answered_since(whole) > 20)
    print(f"lost seen after {seen - moment:.1f} s, whole again after {whole - moment:.1f} s")
    print(f"{len(load.failed)} of {len(load.outcomes)} requests failed")
    assert before == 0
    assert len(load.failed) <= load.users
    assert all(outcome.began <= moment + 0.3 for outcome in load.failed), load.failed
    until(lambda: slurm.node_states()[victim].startswith("down"), what="SLURM's notice")
    slurm.bring_back(victim)
    until(lambda: herd.status.nodes[victim]["state"] == "joined", what="a joiner")
    until(lambda: herd.status.degraded is None, what="whole")


def _holds_a_replica(herd: SlurmService, node: str) -> bool:
    return any("EngineCore" in title(process) for process in herd.slurm.room[node].processes(herd.user))


def test_a_drain_under_load_fails_no_request(herd: SlurmService, before: set[str]) -> None:
    url = herd.address.url
    with Balancer(url, herd.key) as balancer, Load("pocket-1b", balancer, herd.key).going() as load:
        until(lambda: len(load.outcomes) > 20)
        herd.corral("drain")
        until(lambda: not balancer.ready, what="/ready turned 503")
        answer = httpx.get(f"{url}/ready", headers=herd.key, timeout=10, trust_env=False)
        assert (answer.status_code, answer.json()["draining"]) == (503, True)
        until(lambda: not Address.read(herd.folder.address), what="the address withdrawn")
    assert load.failed == []
    until(lambda: herd.job.status() and herd.status.phase == "ended", what="the end")
    until(lambda: set(traces(herd.slurm, herd.user)) <= before, what="nothing left")
