"""The cluster itself: it is what it claims to be, so that the tests of Corral on it mean something."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import SlurmCluster
from tests.slurm.commands import MachineError
from tests.slurm.leftovers import Leftovers
from tests.slurm.machines import Machine
from tests.waiting import until

pytestmark = pytest.mark.slurm

FOREVER = "sleep 1000"
STAY_AND_SAY_ON_USR1 = "trap 'echo warned; exit 0' USR1; echo ready; while :; do sleep 0.2; done"


@pytest.fixture(autouse=True)
def tidy(slurm: SlurmCluster) -> Iterator[None]:
    """A failed test does not fail the next one."""
    yield
    slurm.tidy()


def lines(slurm: SlurmCluster, job: int) -> set[str]:
    """What alice's job printed."""
    return set(slurm.output(job, slurm.alice).splitlines())


def test_a_job_on_three_nodes_sees_three_machines(slurm: SlurmCluster) -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp") as on_the_host:
        hidden = f"$(test -e {on_the_host.name} || echo hidden)"
        say = f"srun bash -c 'echo $(hostname) $(hostname -I) $(id -un) {hidden}'"
        job = slurm.sbatch(say, "-N3", user=slurm.alice)
        slurm.wait(job, "COMPLETED")
    assert lines(slurm, job) == {f"{node.name} {node.address} alice hidden" for node in slurm.nodes}


def test_the_shared_folder_is_the_same_everywhere(slurm: SlurmCluster) -> None:
    job = slurm.sbatch(f"srun bash -c 'hostname > {slurm.shared}/$(hostname)'", "-N3", user=slurm.alice)
    slurm.wait(job, "COMPLETED")
    assert slurm.login.enter("cat", f"{slurm.shared}/n3", user=slurm.bob).stdout == "n3\n"
    assert (slurm.shared / "n2").read_text() == "n2\n"


def test_gpus_are_handed_out_once(slurm: SlurmCluster) -> None:
    here = "touch gpu-$SLURM_JOB_ID; until [ $(ls gpu-* | wc -l) -ge 2 ]; do sleep 0.2; done; sleep 1"
    script = f'echo "$(hostname) $CUDA_VISIBLE_DEVICES"; {here}'
    jobs = [slurm.sbatch(script, "--gres=gpu:small:1", "-wn2", user=slurm.alice) for _ in range(2)]
    for job in jobs:
        slurm.wait(job, "COMPLETED")
    assert set.union(*(lines(slurm, job) for job in jobs)) == {"n2 0", "n2 1"}


def test_jobs_of_two_users_run_side_by_side(slurm: SlurmCluster) -> None:
    jobs = [slurm.sbatch(FOREVER, "-wn1", user=user) for user in (slurm.alice, slurm.bob)]
    for job in jobs:
        slurm.wait(job, "RUNNING")
    with pytest.raises(MachineError, match="Access/permission denied"):
        slurm.scancel(str(jobs[0]), user=slurm.bob)
    for job, user in zip(jobs, (slurm.alice, slurm.bob), strict=True):
        slurm.scancel(str(job), user=user)
        slurm.wait(job, "CANCELLED")


def test_scancel_ends_what_hid_in_the_background_too(slurm: SlurmCluster) -> None:
    job = slurm.sbatch("setsid nohup sleep 999 & srun bash -c 'setsid sleep 998 & sleep 997'", "-N3", user=slurm.bob)
    until(lambda: len([each for each in slurm.processes(slurm.bob) if each.name() == "sleep"]) == 7)
    slurm.scancel(str(job), user=slurm.bob)
    until(lambda: not slurm.processes(slurm.bob), what="the end of all of the job's processes")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--partition=nosuch",), "invalid partition specified"),
        (("--partition=members",), "User's group not permitted"),
        (("--partition=paid", "--account=nosuch"), "Invalid account"),
        (("--partition=short", "--time=10"), "Requested time limit is invalid"),
        (("--gres=gpu:5",), "Requested node configuration is not available"),
        (("--nodes=4",), "Requested node configuration is not available|More processors requested|Node count"),
    ],
)
def test_what_cannot_be_had_is_refused(slurm: SlurmCluster, options: tuple[str, ...], said: str) -> None:
    with pytest.raises(MachineError, match=said):
        slurm.sbatch(FOREVER, *options, user=slurm.bob)


def test_a_full_cluster_lets_a_job_wait(slurm: SlurmCluster) -> None:
    holder = slurm.sbatch(FOREVER, "-N3", "--exclusive", user=slurm.alice)
    slurm.wait(holder, "RUNNING")
    waiting = slurm.sbatch("true", "-N1", user=slurm.bob)
    until(lambda: slurm.job(waiting)["Reason"] in {"Resources", "Priority"})
    slurm.scancel(str(holder))
    slurm.wait(waiting, "COMPLETED")


def test_the_batch_shell_is_warned_before_the_time_limit(slurm: SlurmCluster) -> None:
    job = slurm.sbatch(STAY_AND_SAY_ON_USR1, "--time=1", "--signal=B:USR1@20", user=slurm.alice)
    slurm.wait(job, "COMPLETED")
    assert lines(slurm, job) == {"ready", "warned"}


def test_requeue_counts_restarts(slurm: SlurmCluster) -> None:
    job = slurm.sbatch('echo "restarts ${SLURM_RESTART_COUNT:-0}"; sleep 1000', "--open-mode=append", user=slurm.alice)
    until(lambda: "restarts 0" in lines(slurm, job))
    slurm.scontrol("requeue", str(job), user=slurm.alice)
    until(lambda: "restarts 1" in lines(slurm, job))
    slurm.scancel(str(job))


def test_an_urgent_job_preempts_and_requeues(slurm: SlurmCluster) -> None:
    usual = slurm.sbatch(FOREVER, "-N3", "--exclusive", user=slurm.alice)
    slurm.wait(usual, "RUNNING")
    urgent = slurm.sbatch("sleep 2", "--partition=urgent", user=slurm.bob)
    slurm.wait(urgent, "COMPLETED")
    slurm.wait(usual, "RUNNING")
    assert slurm.job(usual)["Restarts"] == "1"
    slurm.scancel(str(usual))


def test_a_heterogeneous_job_has_its_two_components(slurm: SlurmCluster) -> None:
    say = 'bash -c "echo \\$(hostname) \\$SLURM_HET_SIZE"'
    script = f"#SBATCH -N1 --gres=gpu:big:4\n#SBATCH hetjob\n#SBATCH -N2 --gres=gpu:small:2\nsrun --het-group=0,1 {say}"
    job = slurm.sbatch(script, user=slurm.alice)
    slurm.wait(job, "COMPLETED")
    assert lines(slurm, job) == {"n1 2", "n2 2", "n3 2"}


def test_a_restart_of_the_controller_goes_unnoticed_by_jobs(slurm: SlurmCluster) -> None:
    job = slurm.sbatch("sleep 6; echo survived", "-N3", user=slurm.alice)
    slurm.wait(job, "RUNNING")
    slurm.stop_controller()
    with pytest.raises(MachineError, match="Unable to contact slurm controller"):
        slurm.squeue()
    slurm.start_controller()
    slurm.wait(job, "COMPLETED")
    assert lines(slurm, job) == {"survived"}


def test_a_crashed_node_is_noticed_and_comes_back(slurm: SlurmCluster) -> None:
    # One step per node: the loss of a node ends every step on it.
    steps = "for node in n2 n3; do srun -N1 -n1 -w $node bash -c 'hostname; sleep 1000' & done; wait"
    job = slurm.sbatch(steps, "-N2", "-wn[2-3]", "--no-kill", user=slurm.alice)
    until(lambda: lines(slurm, job) == {"n2", "n3"})
    slurm.crash("n3", silent=True)
    until(lambda: slurm.node_states()["n3"] == "down*")
    assert slurm.job(job)["NodeList"] == "n2"
    assert slurm.job(job)["JobState"] == "RUNNING"
    slurm.scancel(str(job))
    slurm.bring_back("n3")
    again = slurm.sbatch("hostname", "-wn3", user=slurm.alice)
    slurm.wait(again, "COMPLETED")


def test_a_cut_cable_loses_packets_and_closes_nothing(slurm: SlurmCluster) -> None:
    node = slurm.room["n2"]
    reach = ["timeout", "1", "bash", "-c", f"</dev/tcp/{node.address}/6818"]
    until(lambda: subprocess.run(reach, check=False).returncode == 0)
    node.cut()
    try:
        assert subprocess.run(reach, check=False).returncode == 124
        assert slurm.login.enter(*reach, check=False).returncode == 124
    finally:
        node.restore()
    until(lambda: subprocess.run(reach, check=False, stderr=subprocess.DEVNULL).returncode == 0)


def test_two_machines_that_are_parted_lose_each_others_packets_alone(slurm: SlurmCluster) -> None:
    one, other, third = slurm.nodes

    def reach(here: Machine, there: Machine) -> int:
        line = f"</dev/tcp/{there.address}/6818"
        return here.enter("timeout", "1", "bash", "-c", line, check=False).returncode

    one.part(other)
    try:
        assert (reach(one, other), reach(other, one)) == (124, 124)
        until(lambda: (reach(one, third), reach(third, other)) == (0, 0))
    finally:
        one.restore()
        other.restore()
    until(lambda: (reach(one, other), reach(other, one)) == (0, 0))


def test_orphans_are_reaped(slurm: SlurmCluster) -> None:
    slurm.login.enter("bash", "-c", "(setsid sleep 0.1 &)")
    until(lambda: not slurm.login.processes() or all(each.name() == "munged" for each in slurm.login.processes()))


def test_a_command_that_takes_too_long_is_ended(slurm: SlurmCluster) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        slurm.login.enter("sleep", "987", timeout_s=0.5)
    assert not [each for each in slurm.login.processes() if each.name() == "sleep"]


def test_two_clusters_do_not_meet_and_leave_nothing(slurm: SlurmCluster) -> None:
    with SlurmCluster() as other:
        assert other.room.switch.subnet != slurm.room.switch.subnet
        job = other.sbatch("setsid sleep 1000 & sleep 1000", "-N3", user=other.alice)
        other.wait(job, "RUNNING")
        assert str(job) not in slurm.squeue("--noheader", "--format=%i").split()
        before = Leftovers.of(other)
        other.crash("n1")
        assert len(before.left()) > 10
    assert before.left() == []
    assert slurm.node_states()["n1"] == "idle"
