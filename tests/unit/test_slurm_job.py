"""The job script, run by a real bash: SLURM's commands and the nodes' Python are small fakes first on PATH."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.folder import JobFolder
from tests.unit.batch_job import FAKES, Job, until


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    for name, text in FAKES.items():
        path = tmp_path / "fakes" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    job = Job(tmp_path, JobFolder(tmp_path / "it's a job"))
    job.folder.create()
    yield job
    if job.process and job.process.poll() is None:
        os.killpg(job.process.pid, signal.SIGKILL)
        job.process.wait()


def test_every_node_gets_its_step_and_the_head_decides_the_end(job: Job) -> None:
    job.start()
    job.wait_for(3)
    assert job.started() == ["head n1 main", "worker n2 main", "worker n3 main"]
    job.end("n1", 7)
    assert job.status() == 7
    assert job.folder.stop.exists()
    assert not job.folder.drain.exists()
    assert job.events()[:2] == ["job started n1", "step started n1"]
    assert sorted(job.events()[2:]) == [
        "step ended n1", "step ended n2", "step ended n3", "step started n2", "step started n3",
    ]  # fmt: skip


def test_a_timeline_is_in_unix_seconds_with_milliseconds(job: Job) -> None:
    before = time.time()
    job.start("n1")
    job.end("n1")
    assert job.status() == 0
    stamps = [line.split()[0] for line in job.folder.timeline.read_text().splitlines()]
    assert all(before - 0.01 <= float(stamp) <= time.time() and len(stamp.partition(".")[2]) == 3 for stamp in stamps)


def test_each_step_stays_on_its_node_and_takes_all_of_it(job: Job) -> None:
    job.start("n1,n2")
    job.wait_for(2)
    job.end("n1")
    assert job.status() == 0
    for argv in job.sruns():
        assert {"--overlap", "--nodes=1", "--ntasks=1", "--mem=0", "--kill-on-bad-exit=0"} <= set(argv)
        assert f"--nodelist={argv[-3]}" in argv
        assert not [word for word in argv if word.startswith("--het-group")]


def test_the_walltime_is_near(job: Job) -> None:
    job.start("n1,n2")
    job.wait_for(2)
    job.signal(signal.SIGUSR1)
    until(job.folder.drain.exists)
    assert not job.folder.stop.exists()
    job.end("n1", 3)
    assert job.status() == 3


def test_no_number_of_signals_hides_the_heads_status(job: Job) -> None:
    job.start("n1,n2")
    job.wait_for(2)
    for _ in range(30):
        job.signal(signal.SIGUSR1)
        time.sleep(0.005)
    job.end("n1", 5)
    for _ in range(10):
        job.signal(signal.SIGUSR1)
    assert job.status() == 5


def test_term_asks_everybody_to_stop(job: Job) -> None:
    job.start()
    job.wait_for(3)
    job.signal(signal.SIGTERM)
    assert job.status() == 0
    assert job.folder.stop.exists()


def test_a_worker_that_ends_is_told_and_the_job_goes_on(job: Job) -> None:
    job.start()
    job.wait_for(3)
    job.end("n2", 9)
    until(lambda: "step ended n2" in job.events())
    assert "the step of worker n2 (group main) ended with status 9; see logs/node-n2.log" in job.said()
    assert job.process is not None
    assert job.process.poll() is None
    job.end("n1")
    assert job.status() == 0


def test_a_worker_that_does_not_stop_is_ended(job: Job) -> None:
    (job.tmp / "fakes/deaf-n2").touch()
    job.start("n1,n2")
    job.wait_for(2)
    began = time.monotonic()
    job.end("n1")
    assert job.status() == 0
    assert 0.9 < time.monotonic() - began < 8
    assert "step ended n2" in job.events()


def test_a_workers_step_that_ends_is_started_again_unless_slurm_ended_it(job: Job) -> None:
    job.start()
    job.wait_for(3)
    job.end("n2", 75)
    until(lambda: "step ended n2" in job.events())
    job.end("n3", 9)
    until(lambda: "step ended n3" in job.events())
    (job.tmp / "fakes/end-n3").unlink()
    job.wait_for(4)
    assert job.started() == ["head n1 main", "worker n2 main", "worker n3 main", "worker n3 main"]
    job.end("n1")
    assert job.status() == 0


def test_no_step_is_started_again_once_the_job_stops(job: Job) -> None:
    job.start("n1,n2")
    job.wait_for(2)
    job.end("n2", 9)
    until(lambda: "ended with status 9" in job.said())
    job.end("n1")
    assert job.status() == 0
    assert job.started() == ["head n1 main", "worker n2 main"]


def test_a_head_that_slurm_ended_waits_for_what_slurm_decides(job: Job) -> None:
    job.start("n1,n2")
    job.wait_for(2)
    job.end("n1", 75)
    until(lambda: "the head's step ended with status 75" in job.said())
    time.sleep(0.5)
    assert job.process is not None
    assert job.process.poll() is None
    assert not job.folder.stop.exists()
    began = time.monotonic()
    job.signal(signal.SIGTERM)
    assert job.status() == 75
    assert time.monotonic() - began < 5
    assert job.folder.stop.exists()


def test_an_order_is_submitted_once_and_may_be_cancelled(job: Job) -> None:
    job.start("n1")
    order = job.order("20261121-1")
    told = order.with_name("20261121-1.id")
    until(told.exists)
    assert told.read_text() == "101;cluster\n"
    assert job.asked("sbatch") == [f"--parsable {job.tmp}/other jobs/20261121-1/job.sh"]
    cancel = order.with_name("20261121-1.cancel")
    cancel.touch()
    until(lambda: not cancel.exists())
    job.order("20261121-2")
    until(lambda: len(job.asked("sbatch")) == 2)
    job.end("n1")
    assert job.status() == 0
    assert job.asked("scancel") == ["101"]
    assert len(job.asked("sbatch")) == 2


def test_what_sbatch_says_against_an_order_is_left_and_it_is_not_asked_again(job: Job) -> None:
    (job.tmp / "fakes/refuses").touch()
    job.start("n1")
    refused = [job.order(name) for name in ("20261121-1", "20261121-2")]
    for order in refused:
        until(order.with_name(f"{order.name}.error").exists)
        assert order.with_name(f"{order.name}.error").read_text() == "sbatch: error: Invalid account\n"
        assert not order.with_name(f"{order.name}.id").exists()
    (job.tmp / "fakes/refuses").unlink()
    until(job.order("20261121-3").with_name("20261121-3.id").exists)
    assert len(job.asked("sbatch")) == 3
    job.end("n1")
    assert job.status() == 0


def test_a_job_that_is_submitted_from_here_knows_nothing_of_this_one(job: Job) -> None:
    environ = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_CPUS_ON_NODE": "4", "SLURMD_NODENAME": "n1", "SRUN_X": "1",
               "SBATCH_ACCOUNT": "other", "CUDA_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "0",
               "GPU_DEVICE_ORDINAL": "0", "TMPDIR": "/tmp", "MY_SLURM_X": "1"}  # fmt: skip
    job.start("n1", environ)
    until(job.order("20261121-1").with_name("20261121-1.id").exists)
    names = (job.tmp / "fakes/sbatch-environment").read_text().split()
    gone = (set(environ) | {"SLURM_JOB_ID", "SLURM_EXPORT_ENV"}) - {"SLURM_CONF", "MY_SLURM_X"}
    assert {"PATH", "USER", "SLURM_CONF", "MY_SLURM_X"} <= set(names)
    assert not gone & set(names)
    assert [name for name in names if name.startswith(("SLURM", "SBATCH", "SRUN"))] == ["SLURM_CONF"]
    job.end("n1")
    assert job.status() == 0


def test_joiners_end_with_the_job_and_successors_do_not(job: Job) -> None:
    job.start("n1")
    for name, joins in (("20261121-1", str(job.folder.path)), ("20261121-2", None)):
        until(job.order(name, joins).with_name(f"{name}.id").exists)
    assert job.asked("scancel") == []
    job.end("n1")
    assert job.status() == 0
    assert job.asked("scancel") == ["101"]


def test_the_folder_says_when_slurm_ends_the_job(job: Job) -> None:
    job.start("n1")
    until((job.folder.path / "deadline").exists)
    assert (job.folder.path / "deadline").read_text() == "1000\n"
    job.end("n1")
    assert job.status() == 0


def test_a_requeued_job_starts_afresh(job: Job) -> None:
    job.folder.drain.touch()
    job.folder.stop.touch()
    job.start("n1,n2")
    job.wait_for(2)
    assert not job.folder.drain.exists()
    job.end("n1")
    assert job.status() == 0


def test_two_groups_are_two_components(job: Job) -> None:
    environ = {"SLURM_JOB_NODELIST_HET_GROUP_0": "n1", "SLURM_JOB_NODELIST_HET_GROUP_1": "n2,n1"}
    job.start(environ=environ, groups=[{"name": "big"}, {"name": "small", "nodes": 2}])
    job.wait_for(3)
    assert job.started() == ["head n1 big", "worker n1 small", "worker n2 small"]
    job.end("n1")
    assert job.status() == 0
    groups = {(argv[-1], next(word for word in argv if word.startswith("--het"))) for argv in job.sruns()}
    assert groups == {("big", "--het-group=0"), ("small", "--het-group=1")}


def test_the_setup_runs_on_each_node_before_python(job: Job) -> None:
    job.start("n1,n2", setup=["if true; then", '  VALUE="from $SLURMD_NODENAME, it\'s"', "fi", "export VALUE"])
    job.wait_for(2)
    assert job.started() == ["head n1 main from n1, it's", "worker n2 main from n2, it's"]
    job.end("n1")
    assert job.status() == 0


@pytest.mark.parametrize(
    ("line", "told"), [("false", ""), ("no-such-thing", "no-such-thing"), ("if (", "syntax error")]
)
def test_a_setup_that_fails_ends_the_step_before_python(job: Job, line: str, told: str) -> None:
    job.start("n1", setup=[line])
    assert job.status() in (1, 2, 127)
    assert job.started() == []
    assert told in job.folder.node_log("n1").read_text()


def test_steps_know_when_the_job_ends(job: Job) -> None:
    line = "VALUE=$SLURM_JOB_END_TIME; export VALUE"
    job.start("n1", setup=[line])
    job.wait_for(1)
    assert job.started() == ["head n1 main 1000"]
    job.end("n1")
    assert job.status() == 0


def test_modules_are_loaded_before_the_steps(job: Job) -> None:
    module = {"BASH_FUNC_module%%": '() { echo "$@" >>"$FAKES/modules"; [ "$2" != gone/1 ]; }'}
    job.start("n1", module, modules=["gcc/12", "it's/1"])
    job.wait_for(1)
    assert (job.tmp / "fakes/modules").read_text() == "load gcc/12\nload it's/1\n"
    job.end("n1")
    assert job.status() == 0


def test_a_module_that_is_not_there_ends_the_job(job: Job) -> None:
    module = {"BASH_FUNC_module%%": "() { false; }"}
    job.start("n1", module, modules=["gone/1"])
    assert job.status() == 1
    assert "corral: cannot load the module gone/1" in job.said()
    assert job.started() == []


def test_a_folder_that_the_node_does_not_see_is_named(job: Job) -> None:
    job.folder.logs.rmdir()
    job.folder.path.rmdir()
    job.start("n1")
    assert job.status() == 1
    assert f"cannot use the job folder {job.folder.path}; 'shared' must be a folder that all nodes see" in job.said()


def test_a_job_without_nodes_ends_at_once(job: Job) -> None:
    job.start("")
    assert job.status() != 0
    assert "SLURM does not say which nodes this job has" in job.said()


def test_the_folder_is_its_owners_alone(job: Job) -> None:
    assert job.folder.path.stat().st_mode & 0o777 == 0o700
    assert job.folder.logs.is_dir()
