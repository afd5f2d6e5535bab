"""SLURM's commands behind one door. What they print here was printed by SLURM 22.05."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from slurm.client import SlurmClient
from slurm.errors import NoSuchJob, Refused, SlurmError, SlurmMissing, Unavailable, Unsure
from slurm.jobs import FIELDS, SEPARATOR, Job, JobState, parse_jobs, parse_time, waiting_before
from slurm.runner import LocalRunner, Result, submission_environment

NO_CONTROLLER = "Unable to contact slurm controller (connect failure)"


class FakeRunner:
    """Answers in turn, the last answer for ever; keeps what it was asked."""

    def __init__(self, *answers: Result | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, ...]] = []

    async def run(self, argv: Sequence[str]) -> Result:
        self.asked.append(tuple(argv))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def failed(err: str, status: int = 1) -> Result:
    return Result(status, "", err + "\n")


def client(*answers: Result | Exception, patience_s: float = 30) -> tuple[SlurmClient, FakeRunner]:
    runner = FakeRunner(*answers)

    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    return SlurmClient(runner, patience_s, sleep), runner


ROW = {
    "JobID": "7", "HetJobID": "N/A", "HetJobOffset": "N/A", "Name": "my job | x", "State": "RUNNING", "Reason": "None",
    "Partition": "debug", "UserName": "root", "Comment": "corral a=1", "NodeList": "n[1-2],n09", "NumNodes": "3",
    "SubmitTime": "1795247725", "StartTime": "1795247726", "EndTime": "1795248326", "TimeLeft": "9:58",
    "PriorityLong": "4294901759", "exit_code": "0", "RestartCnt": "1",
}  # fmt: skip


def rows(*changes: dict[str, str]) -> Result:
    lines = ["".join(f"{value:<20}{SEPARATOR}" for value in {**ROW, **change}.values()) for change in changes]
    return Result(0, "\n".join(lines) + "\n", "")


# --- jobs ---


async def test_a_running_job() -> None:
    slurm, runner = client(rows({}))
    assert await slurm.job(7) == Job(
        id=7, name="my job | x", state=JobState.RUNNING, reason="", partition="debug", user="root",
        comment="corral a=1", nodes=("n1", "n2", "n09"), node_count=3, submitted_at=1795247725.0,
        starts_at=1795247726.0, ends_at=1795248326.0, time_left=timedelta(minutes=9, seconds=58),
        priority=4294901759, exit_code=None, signal=None, restarts=1,
    )  # fmt: skip
    (argv,) = runner.asked
    assert argv[:3] == ("squeue", "--noheader", "--states=all")
    assert argv[-1] == "--jobs=7"
    assert list(ROW) == list(FIELDS)


async def test_a_waiting_job_says_why_and_when() -> None:
    waiting = {"State": "PENDING", "Reason": "PartitionTimeLimit", "NodeList": "", "StartTime": "N/A", "EndTime": "N/A"}
    slurm, _ = client(rows(waiting), rows({**waiting, "Reason": "Resources", "StartTime": "1795250000"}))
    first, second = await slurm.job(7), await slurm.job(7)
    assert first is not None
    assert second is not None
    assert (first.state.waiting, first.reason, first.starts_at, first.nodes) == (True, "PartitionTimeLimit", None, ())
    assert (second.reason, second.starts_at) == ("Resources", 1795250000.0)


@pytest.mark.parametrize(
    ("state", "status", "ending"),
    [
        ("COMPLETED", "0", (0, None)),
        ("FAILED", "768", (3, None)),
        ("CANCELLED", "15", (None, 15)),
        ("NODE_FAIL", "1", (None, 1)),
        ("RUNNING", "0", (None, None)),
    ],
)
async def test_how_a_job_ended(state: str, status: str, ending: tuple[int | None, int | None]) -> None:
    slurm, _ = client(rows({"State": state, "exit_code": status}))
    job = await slurm.job(7)
    assert job is not None
    assert (job.exit_code, job.signal) == ending
    assert job.state.ended == (state != "RUNNING")


async def test_a_heterogeneous_job_is_its_leader_with_all_nodes() -> None:
    leader = {"JobID": "5", "HetJobID": "5", "HetJobOffset": "0", "NodeList": "big1", "NumNodes": "1"}
    other = {"JobID": "6", "HetJobID": "5", "HetJobOffset": "1", "NodeList": "n[1-2]", "NumNodes": "2"}
    slurm, _ = client(rows(other, leader, {}))
    assert [(job.id, job.nodes, job.node_count) for job in await slurm.jobs()] == [
        (5, ("big1", "n1", "n2"), 3),
        (7, ("n1", "n2", "n09"), 3),
    ]


async def test_jobs_are_found_by_user_name_and_comment() -> None:
    slurm, runner = client(rows({}, {"JobID": "8", "Name": "other"}, {"JobID": "9", "Comment": "(null)"}))
    found = await slurm.jobs(user="me", name="my job", comment="corral ")
    assert [job.id for job in found] == [7]
    assert "--user=me" in runner.asked[0]
    assert "--states=all" not in runner.asked[0]


async def test_a_job_that_slurm_forgot_is_none() -> None:
    slurm, _ = client(failed("slurm_load_jobs error: Invalid job id specified"))
    assert await slurm.job(999) is None


def test_a_state_of_a_later_release_is_other() -> None:
    assert JobState("QUANTUM") is JobState.OTHER
    assert not JobState.OTHER.ended


def test_what_squeue_never_prints_is_refused() -> None:
    with pytest.raises(ValueError, match="squeue printed a line that cannot be read"):
        parse_jobs("squeue: warning\n")


def test_the_place_in_the_queue() -> None:
    (job,) = parse_jobs(rows({"JobID": "10", "State": "PENDING", "PriorityLong": "50"}).out)
    queue = "10 50\n11 60\n9 50\n12 50\n8_[1-20] 50\n7+0 40\nsqueue: warning\n"
    assert waiting_before(queue, job) == 3


def test_times_are_read_in_both_forms() -> None:
    assert parse_time("1795247725") == 1795247725.0
    assert parse_time("2026-11-21T07:55:25") is not None
    assert parse_time("Unknown") is None


# --- changes ---


async def test_a_job_is_submitted() -> None:
    slurm, runner = client(Result(0, "42\n", ""))
    assert await slurm.submit(Path("/a b/job.sh"), ["--dependency=afterany:7"]) == 42
    assert runner.asked == [("sbatch", "--parsable", "--dependency=afterany:7", "/a b/job.sh")]


async def test_a_federation_names_its_cluster_behind_the_id() -> None:
    slurm, _ = client(Result(0, "sbatch: a site's greeting\n42;big\n", ""))
    assert await slurm.submit(Path("job.sh")) == 42


async def test_every_change_is_one_command() -> None:
    slurm, runner = client(Result(0, "", ""))
    await slurm.cancel(7)
    await slurm.signal(7, "TERM")
    await slurm.signal(7, "USR1", batch=False)
    await slurm.extend(7, timedelta(days=1, hours=2))
    await slurm.requeue(7)
    assert runner.asked == [
        ("scancel", "7"),
        ("scancel", "--batch", "--signal=TERM", "7"),
        ("scancel", "--signal=USR1", "7"),
        ("scontrol", "update", "JobId=7", "TimeLimit=1-02:00:00"),
        ("scontrol", "requeue", "7"),
    ]


@pytest.mark.parametrize(
    ("said", "start"),
    [
        ("sbatch: Job 18 to start at 1834106771 using 1 processors on nodes ctl in partition debug", 1834106771.0),
        ("sbatch: Job 20 to start at 1834106771 using 2 processors on ctl", 1834106771.0),
        ("", None),
    ],
)
async def test_a_start_is_estimated_without_submitting(said: str, start: float | None) -> None:
    slurm, runner = client(Result(0, "", said))
    assert await slurm.start_estimate(Path("job.sh")) == start
    assert runner.asked == [("sbatch", "--test-only", "job.sh")]


async def test_partitions_are_asked_for() -> None:
    line = SEPARATOR.join(("debug*", "up", "infinite", "3", "4", "6000", "gpu:fake:2", "idle", "(null)"))
    slurm, runner = client(Result(0, line + "\n", ""))
    (partition,) = await slurm.partitions()
    assert (partition.name, partition.nodes, partition.kinds[0].gpus) == ("debug", 3, {"fake": 2})
    assert runner.asked[0][:3] == ("sinfo", "--noheader", "--exact")


# --- refusals ---


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ("Batch job submission failed: Invalid account or account/partition combination specified", "account"),
        ("invalid partition specified: nope", "partition"),
        ("Batch job submission failed: User's group not permitted to use this partition", "partition"),
        ("Batch job submission failed: Invalid qos specification", "qos"),
        ("Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)", "walltime"),
        ("Invalid --time specification", "walltime"),
        ("Batch job submission failed: Requested reservation is invalid", "reservation"),
        ("Batch job submission failed: Invalid feature specification", "constraint"),
        ("Invalid generic resource (gres) specification", "groups.gpus"),
        ("Memory specification can not be satisfied", "groups.memory"),
        ("Batch job submission failed: Node count specification invalid", "groups.nodes"),
        ("Batch job submission failed: CPU count per node can not be satisfied", "groups.cpus"),
        ("Batch job submission failed: Requested node configuration is not available", "groups"),
        ("sbatch: unrecognized option '--bogus'", "extra"),
        ("Batch job submission failed: Access/permission denied", None),
    ],
)
async def test_a_refusal_names_the_field(said: str, field: str | None) -> None:
    slurm, runner = client(failed(f"sbatch: error: {said}"))
    with pytest.raises(Refused) as caught:
        await slurm.submit(Path("job.sh"))
    assert caught.value.field == field
    assert said.removeprefix("sbatch: ") in str(caught.value)
    assert len(runner.asked) == 1


async def test_a_refusal_keeps_every_line() -> None:
    both = "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: Invalid name"
    slurm, _ = client(failed(both))
    with pytest.raises(Refused, match="partition: invalid partition specified: nope\nBatch job submission failed"):
        await slurm.submit(Path("job.sh"))


async def test_a_silent_failure_is_a_refusal_too() -> None:
    slurm, _ = client(Result(255, "", ""), Result(0, "hello\n", ""))
    with pytest.raises(Refused, match="sbatch ended with status 255"):
        await slurm.submit(Path("job.sh"))
    with pytest.raises(Refused, match="printed no job id but 'hello'"):
        await slurm.submit(Path("job.sh"))


async def test_an_extension_that_the_site_does_not_allow() -> None:
    slurm, _ = client(failed("Access/permission denied for job 7"))
    with pytest.raises(Refused, match="walltime: Access/permission denied"):
        await slurm.extend(7, timedelta(hours=9))


@pytest.mark.parametrize(
    "said",
    ["Invalid job id specified for job 7", "scancel: error: Kill job error on job id 7: Invalid job id specified"],
)
async def test_changing_a_job_that_is_not_there(said: str) -> None:
    slurm, _ = client(failed(said))
    with pytest.raises(NoSuchJob, match="SLURM knows no job 7"):
        await slurm.signal(7, "TERM")


# --- a controller that does not answer ---


@pytest.mark.parametrize(
    "said",
    [
        f"slurm_load_jobs error: {NO_CONTROLLER}",
        "slurm_load_jobs error: Socket timed out on send/recv operation",
        "sinfo: error: Unable to establish control machine address",
        "Unexpected message received for job 1",
    ],
)
async def test_a_restart_of_the_controller_is_waited_for(said: str) -> None:
    slurm, runner = client(failed(said), failed(said), rows({}))
    assert await slurm.job(7) is not None
    assert len(runner.asked) == 3


async def test_patience_ends() -> None:
    slurm, runner = client(failed(f"slurm_load_jobs error: {NO_CONTROLLER}"), patience_s=0.02)
    with pytest.raises(Unavailable, match="Unable to contact slurm controller"):
        await slurm.job(7)
    assert len(runner.asked) > 1


async def test_a_submission_that_was_not_sent_is_tried_again() -> None:
    refused = failed(f"sbatch: error: Batch job submission failed: {NO_CONTROLLER}")
    slurm, runner = client(refused, Result(0, "42\n", ""))
    assert await slurm.submit(Path("job.sh")) == 42
    assert len(runner.asked) == 2


@pytest.mark.parametrize(
    "lost", [failed("sbatch: error: Socket timed out on send/recv operation"), Unavailable("sbatch did not end")]
)
async def test_a_submission_that_may_have_arrived_is_never_repeated(lost: Result | Exception) -> None:
    slurm, runner = client(lost)
    with pytest.raises(Unsure):
        await slurm.submit(Path("job.sh"))
    assert len(runner.asked) == 1


# --- the real door ---


async def test_commands_run_without_a_shell() -> None:
    words = ["a b", "$(id)", "`id`", "'", "\n", ""]
    code = "import sys; print(repr(sys.argv[1:]), end=''); print('oh', file=sys.stderr, end=''); sys.exit(3)"
    result = await LocalRunner().run([sys.executable, "-c", code, *words])
    assert result == Result(3, repr(words), "oh")


async def test_a_command_that_is_not_there_says_what_to_do() -> None:
    with pytest.raises(SlurmMissing, match="sbatch-of-nowhere is not on PATH: run this on a login node"):
        await LocalRunner().run(["sbatch-of-nowhere"])


async def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(Unavailable, match=r"sh did not end within 2 s"):
        await LocalRunner(limit_s=2).run(["sh", "-c", f"echo $$ >'{pid}'; exec sleep 60"])
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


async def test_a_cancelled_call_leaves_no_process(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    task = asyncio.create_task(LocalRunner().run(["sh", "-c", f"echo $$ >'{pid}'; exec sleep 60"]))
    while not pid.exists() or not pid.read_text():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_jobs_inherit_no_secrets_and_nothing_of_another_job() -> None:
    environ = {
        "HOME": "/home/me", "PATH": "/bin", "LC_TIME": "C", "SLURM_CONF": "/etc/slurm.conf", "MODULEPATH": "/m",
        "BASH_FUNC_module%%": "() { :; }", "SLURM_JOB_ID": "1", "SBATCH_PARTITION": "x", "HF_TOKEN": "hf",
        "AWS_SECRET_ACCESS_KEY": "x", "https_proxy": "u:p@h", "TMPDIR": "/tmp/me", "PYTHONPATH": "/x",
    }  # fmt: skip
    assert submission_environment(environ) == {
        "HOME": "/home/me", "PATH": "/bin", "LC_TIME": "C", "SLURM_CONF": "/etc/slurm.conf", "MODULEPATH": "/m",
        "BASH_FUNC_module%%": "() { :; }", "SLURM_TIME_FORMAT": "%s",
    }  # fmt: skip


@pytest.mark.parametrize("error", [SlurmMissing("sbatch"), NoSuchJob(7), Refused("no", "qos"), Unsure("lost")])
def test_errors_say_what_they_are_about(error: SlurmError) -> None:
    assert str(error)
    assert "\n" not in str(error)
