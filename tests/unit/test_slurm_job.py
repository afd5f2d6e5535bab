"""The job script, run by a real bash: SLURM's commands and the nodes' Python are small fakes first on PATH."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from slurm.config import ClusterConfig
from slurm.folder import JobFolder
from slurm.script import JobSpec, render

SRUN = r"""#!/bin/bash
printf '%s\0' "$@" >"$FAKES/srun.$$"
for word; do
  case $word in --nodelist=*) node=${word#*=} ;; --*) ;; *) break ;; esac
  shift
done
SLURMD_NODENAME=$node exec "$@"
"""

# A head runs until it is told to end, a worker until there is a stop file; `deaf` ones do not look.
PYTHON = r"""#!/bin/bash
folder=$4 node=$5 role=$6 group=$7
echo "$role $node $group ${VALUE-}" >>"$FAKES/started"
while :; do
  [ -e "$FAKES/end-$node" ] && exit "$(cat "$FAKES/end-$node")"
  [ -e "$FAKES/deaf-$node" ] || { [ -e "$folder/stop" ] && exit 0; }
  /bin/sleep 0.02
done
"""

SBATCH = r"""#!/bin/bash
echo "$@" >>"$FAKES/sbatch-asked"
compgen -e | sort >"$FAKES/sbatch-environment"
[ -e "$FAKES/refuses" ] && { echo "sbatch: error: Invalid account" >&2; exit 1; }
echo "$((100 + $(wc -l <"$FAKES/sbatch-asked")));cluster"
"""

# Whole seconds take a tenth.
SLEEP = r"""#!/bin/bash
case $1 in *.*) exec /bin/sleep "$1" ;; *) exec /bin/sleep "${1%?}.${1: -1}" ;; esac
"""

FAKES = {
    "srun": SRUN,
    "scontrol": '#!/bin/bash\necho "$3" | tr , "\\n"\n',
    "squeue": "#!/bin/bash\nprintf '2000\\n1000\\n'\n",
    "python": PYTHON,
    "sbatch": SBATCH,
    "scancel": '#!/bin/bash\necho "$@" >>"$FAKES/scancel-asked"\n',
    "sleep": SLEEP,
}


def until(happened: Callable[[], object], limit_s: float = 10) -> None:
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@dataclass
class Job:
    """One run of a rendered script, and what it left behind."""

    tmp: Path
    folder: JobFolder
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self, nodes: str = "n1,n2,n3", environ: dict[str, str] | None = None, **changes: Any) -> None:
        cluster = ClusterConfig(**{"walltime": "1:00:00", "shared": str(self.tmp), "local": None, **changes})
        spec = JobSpec(cluster, "test", self.folder.path, str(self.tmp / "fakes/python"), stop_s=1)
        script = self.tmp / "job.sh"
        script.write_text(render(spec))
        job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": nodes, "SLURMD_NODENAME": "n1"}
        fakes = self.tmp / "fakes"
        with (self.tmp / "stderr").open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", str(script)],
                env={"PATH": f"{fakes}:/usr/bin:/bin", "FAKES": str(fakes), **job, **(environ or {})},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def started(self) -> list[str]:
        path = self.tmp / "fakes/started"
        return sorted(line.strip() for line in path.read_text().splitlines()) if path.exists() else []

    def wait_for(self, count: int) -> None:
        until(lambda: len(self.started()) == count)

    def end(self, node: str, status: int = 0) -> None:
        beside = self.tmp / "fakes/status"
        beside.write_text(str(status))
        beside.rename(self.tmp / f"fakes/end-{node}")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def status(self) -> int:
        """How the script ended; nothing that it started may be left."""
        assert self.process is not None
        status = self.process.wait(20)
        until(lambda: not self.left(), limit_s=1)  # a fake's `sleep 0.02` outlives it by as much
        return status

    def left(self) -> list[psutil.Process]:
        """What of it still runs; the dead that nobody has buried yet do not count."""
        assert self.process is not None
        return [each for each in psutil.process_iter() if _group(each) == self.process.pid]

    def said(self) -> str:
        return (self.tmp / "stderr").read_text()

    def events(self) -> list[str]:
        return [line.split(" ", 1)[1] for line in self.folder.timeline.read_text().splitlines()]

    def order(self, name: str, joins: str | None = None) -> Path:
        """Have a job submitted; returns the order."""
        path = self.tmp / "other jobs" / name
        path.mkdir(parents=True)
        if joins:
            (path / "joins").write_text(joins)
        order = self.folder.path / "submit" / name
        order.parent.mkdir(exist_ok=True)
        beside = order.with_name(f".{name}")
        beside.write_text(f"{path}\n")
        return beside.rename(order)

    def asked(self, command: str) -> list[str]:
        """The arguments of each call of sbatch or scancel."""
        path = self.tmp / f"fakes/{command}-asked"
        return path.read_text().splitlines() if path.exists() else []

    def sruns(self) -> list[list[str]]:
        return [path.read_text().split("\0")[:-1] for path in sorted((self.tmp / "fakes").glob("srun.*"))]


def _group(process: psutil.Process) -> int:
    try:
        return 0 if process.status() == psutil.STATUS_ZOMBIE else os.getpgid(process.pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return 0


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
