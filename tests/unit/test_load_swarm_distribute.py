from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from loadtests.swarm.distribute import free_port, main, parser, spread_of
from loadtests.swarm.errors import OptionError
from loadtests.swarm.job import Job, address_towards, job_of
from loadtests.swarm.processes import Plan, run

IN_JOB = {"SLURM_JOB_ID": "71", "SLURM_JOB_NODELIST": "n[1-3]", "SLURMD_NODENAME": "localhost"}
FOREVER = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]


def ending(status: int, after_s: float = 0.0) -> list[str]:
    return [sys.executable, "-c", f"import sys, time; time.sleep({after_s}); sys.exit({status})"]


def children() -> set[int]:
    """Of this process, which may have others of other tests."""
    return {each.pid for each in psutil.Process().children()}


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command that knows one hostlist."""
    command = tmp_path / "scontrol"
    command.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[1-3]" ] || exit 1\nprintf "localhost\\nn2\\nn3\\n"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return command


# Where the processes are


def test_outside_of_a_job_workers_are_here_and_the_master_on_loopback() -> None:
    spread = spread_of(parser().parse_args(["--workers", "3"]), {})
    plan = spread.plan(["-u", "8"])
    assert (spread.address, spread.job, len(plan.workers)) == ("127.0.0.1", None, 3)
    master, worker = " ".join(plan.master), " ".join(plan.workers[0])
    assert f"--master --master-bind-host 127.0.0.1 --master-bind-port {spread.port} --expect-workers 3" in master
    assert master.endswith("--headless -u 8")
    assert worker.endswith(f"users.py --worker --master-host 127.0.0.1 --master-port {spread.port}")


@pytest.mark.usefixtures("scontrol")
def test_in_a_job_workers_are_a_step_beside_what_runs_there() -> None:
    spread = spread_of(parser().parse_args(["--workers", "8", "--bind", "127.0.0.1"]), IN_JOB)
    [step] = spread.plan([]).workers
    words = " ".join(step)
    assert words.startswith("srun --jobid=71 --overlap --ntasks=8 --nodes=3 --nodelist=localhost,n2,n3 ")
    assert f"-m locust -f {Path('loadtests/users.py').resolve()} --worker --master-host 127.0.0.1" in words


@pytest.mark.usefixtures("scontrol")
def test_a_job_has_a_worker_a_node_if_nothing_is_said() -> None:
    assert spread_of(parser().parse_args(["--bind", "127.0.0.1"]), IN_JOB).workers == 3


@pytest.mark.usefixtures("scontrol")
def test_workers_may_be_on_some_nodes_only() -> None:
    options = parser().parse_args(["--nodes", "localhost", "--workers", "2"])
    spread = spread_of(options, IN_JOB)
    assert (spread.nodes, spread.address) == (("localhost",), "127.0.0.1")


@pytest.mark.usefixtures("scontrol")
@pytest.mark.parametrize(
    ("options", "environ", "said"),
    [
        (["--nodes", "n9"], IN_JOB, "nodes: job 71 has no 'n9'; it has localhost, n2, n3."),
        (["--nodes", "n1"], {}, "nodes: this is no SLURM job"),
        (["--workers", "-2"], {}, "workers: -2 is not from 1 to 10000"),
        (["--bind", "0.0.0.0"], {}, "bind: 0.0.0.0 is every network, and the port has no authentication"),
        (["--bind", "192.0.2.1"], {}, "bind: the master cannot listen on 192.0.2.1"),
        (["--port", "99999"], {}, "bind: the master cannot listen on 127.0.0.1 port 99999"),
        ([], IN_JOB | {"SLURM_JOB_NODELIST": "x[1"}, "this is job 71, but `scontrol show hostnames x[1` does not tell"),
    ],
)
def test_what_cannot_be_says_why(options: list[str], environ: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        spread_of(parser().parse_args(options), environ)
    assert said in str(caught.value)


def test_no_job_is_none() -> None:
    assert job_of({}) is None
    assert job_of({"SLURM_JOB_ID": "7"}) is None


def test_the_address_is_the_one_on_the_way_to_another_node() -> None:
    assert address_towards(["here"], "here") == "127.0.0.1"
    assert address_towards(["here", "127.0.0.1"], "here") == "127.0.0.1"
    with pytest.raises(OptionError, match=r"no way to nowhere\.invalid .*give this node's address with --bind"):
        address_towards(["nowhere.invalid"], "here")


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match=f"cannot listen on 127.0.0.1 port {port}: .*in use"):
            free_port("127.0.0.1", port)


@pytest.mark.parametrize("option", ["--master", "--worker", "--processes=4", "--master-bind-host=*", "-f"])
def test_what_is_decided_here_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--", option]) == 2
    assert f"distribute: {option} is decided here; leave it away." in capsys.readouterr().err


def test_the_help_says_what_is_open_to_whom(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "has any authentication" in capsys.readouterr().out


def test_a_job_starts_fewer_steps_than_nodes_where_workers_are_few() -> None:
    assert Job("7", ("a", "b", "c")).some("", 2) == ("a", "b")


# Their life


@pytest.mark.parametrize("worker", [FOREVER, STUBBORN])
def test_workers_end_with_their_master(worker: list[str]) -> None:
    others = children()
    assert run(Plan(ending(3), [worker, worker]), grace_s=0.1) == 3
    assert children() == others


def test_workers_may_end_before_their_master() -> None:
    assert run(Plan(ending(3, 0.3), [ending(0), ending(0)]), grace_s=60) == 3


def test_a_master_without_workers_is_ended(capsys: pytest.CaptureFixture[str]) -> None:
    others = children()
    assert run(Plan(FOREVER, [ending(7), ending(0)]), grace_s=0.1) == 128 + signal.SIGINT
    assert "no worker is left (exit status 7, 0): the run is ended" in capsys.readouterr().err
    assert children() == others


def ready(mark: Path, *lines: str) -> list[str]:
    """A process that makes a file as soon as it minds signals as the lines say."""
    return [sys.executable, "-c", "\n".join(lines).replace("READY", f"open({str(mark)!r}, 'w').close()")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_in_order(number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark, before, others = tmp_path / "ready", signal.getsignal(number), children()
    master = ready(mark, "import time", "try: READY; time.sleep(600)", "except KeyboardInterrupt: raise SystemExit(5)")
    thread = threading.Thread(target=_interrupt, args=(number, 1, mark))
    thread.start()
    assert run(Plan(master, [FOREVER]), grace_s=0.1) == 5
    thread.join()
    assert "interrupted: the run is ended; once more to kill it" in capsys.readouterr().err
    assert (children(), signal.getsignal(number)) == (others, before)


def test_a_second_interrupt_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark, others = tmp_path / "ready", children()
    ignoring = ("signal.signal(2, signal.SIG_IGN)", "signal.signal(15, signal.SIG_IGN)")
    deaf = ready(mark, "import signal, time", *ignoring, "READY", "time.sleep(600)")
    thread = threading.Thread(target=_interrupt, args=(signal.SIGINT, 2, mark))
    thread.start()
    assert run(Plan(deaf, [FOREVER]), grace_s=0.1) == 128 + signal.SIGKILL
    thread.join()
    assert "interrupted: all is killed" in capsys.readouterr().err
    assert children() == others


def _interrupt(number: int, times: int, mark: Path) -> None:
    while not mark.exists():
        time.sleep(0.01)
    for _ in range(times):
        os.kill(os.getpid(), number)
        time.sleep(1)  # two that come at once are one
