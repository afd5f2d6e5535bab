"""A real SLURM on machines of its own: a controller, three nodes, and a login machine that two users work from.

    with SlurmCluster() as slurm:
        job = slurm.sbatch("srun hostname", "-N3", user=slurm.alice)
        slurm.wait(job, "COMPLETED")
        print(slurm.output(job, slurm.alice))

`python -m tests.slurm.cluster` keeps one up for a person.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.slurm import packages, permissions, site
from tests.slurm.lifecycle import Lifecycle
from tests.slurm.machines import ROOT, Machine, MachineRoom, User
from tests.waiting import until

PATIENCE_S = 120
OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
"""States that a job does not leave."""


class SlurmCluster(Lifecycle):
    """munged on every machine, slurmctld on `ctl`, a slurmd on each node; users work from `login`.

    `shared` is a folder that the host and all machines see under the same path; the users' homes are in it.
    """

    def __init__(self, nodes: Sequence[site.Node] = site.NODES) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="corral-slurm-"))
        self.shared = self.folder / "shared"
        self.alice = User("alice", 61001, self.shared / "home" / "alice")
        self.bob = User("bob", 61002, self.shared / "home" / "bob")
        self.specs = {node.name: node for node in nodes}
        numbers = {name: number for number, name in enumerate(self.specs, start=11)}
        self.room = MachineRoom(self.folder, {"ctl": 1, **numbers, "login": 50})

    @property
    def login(self) -> Machine:
        return self.room["login"]

    @property
    def nodes(self) -> list[Machine]:
        return [self.room[name] for name in self.specs]

    def start(self) -> None:
        """Up, with every node idle."""
        self._lay_out_folder()
        self.room.start()
        for machine in self.room:
            self._start_munged(machine)
        self.start_controller()
        for node in self.nodes:
            self._start_slurmd(node)
        until(self._all_idle, PATIENCE_S, "all nodes idle")

    def stop(self) -> None:
        """Off, with nothing left of it, its folder included."""
        try:
            self.room.stop()
        finally:
            shutil.rmtree(self.folder)

    # What users do.

    def sbatch(self, script: str, *options: str, user: User) -> int:
        """Submit a bash script from the user's home on the login machine; returns the job's number."""
        said = self.login.enter("sbatch", "--parsable", *options, user=user, text=f"#!/bin/bash\n{script}\n").stdout
        return int(said.split(";")[0])

    def squeue(self, *options: str, user: User = ROOT) -> str:
        return self.login.enter("squeue", *options, user=user).stdout

    def scontrol(self, *words: str, user: User = ROOT) -> str:
        return self.login.enter("scontrol", *words, user=user).stdout

    def scancel(self, *words: str, user: User = ROOT) -> None:
        self.login.enter("scancel", *words, user=user)

    def output(self, job: int, user: User) -> str:
        """What the job printed so far, if it was submitted without --output."""
        path = user.home / f"slurm-{job}.out"
        return path.read_text() if path.exists() else ""

    # What there is to see.

    def job(self, job: int) -> dict[str, str]:
        """The fields of `scontrol show job`; SLURM forgets a job 5 minutes after its end."""
        return _fields(self.scontrol("--oneliner", "show", "job", str(job)).splitlines()[0])

    def wait(self, job: int, *states: str, patience_s: float = PATIENCE_S) -> str:
        """Wait until the job is in one of `states`; a job that has ended in another is an error."""

        def seen() -> str:
            state = self.job(job)["JobState"]
            assert state in states or state not in OVER, f"job {job} is {state}, not {' or '.join(states)}"
            return state if state in states else ""

        return until(seen, patience_s, f"job {job} {' or '.join(states)}")

    def node_states(self) -> dict[str, str]:
        """Such as `idle`, `mixed`, `down*`; the star is for a node that does not answer."""
        # Not with --nodes: what SLURM 22.05 says of a single node may be as old as the controller.
        words = self.login.enter("sinfo", "--noheader", "--Node", "--format", "%N %T").stdout.split()
        return dict(zip(words[::2], words[1::2], strict=True))

    def processes(self, user: User) -> list[psutil.Process]:
        """What the user runs on the nodes."""
        return [process for node in self.nodes if node.pid for process in node.processes(user)]

    def logs(self) -> str:
        """Everything that the daemons wrote."""
        files = sorted((self.folder / "log").rglob("*.log"))
        return "\n".join(f"== {file.parent.name}/{file.name}\n{file.read_text()}" for file in files)

    # What goes wrong.

    def crash(self, name: str, silent: bool = False) -> None:
        """A node is gone, from one moment to the next; SLURM notices after SlurmdTimeout, 20 s."""
        self.room[name].crash(silent)

    def bring_back(self, name: str) -> None:
        """Start a crashed node, and wait until SLURM gives it out again."""
        self.room[name].start()
        self._start_munged(self.room[name])
        self._start_slurmd(self.room[name])
        until(lambda: self.node_states()[name] == "idle", PATIENCE_S, f"{name} idle")

    def restart_slurmd(self, name: str) -> None:
        """SLURM looks at a node that it took for dead every hundred seconds; a slurmd that starts tells it at once."""
        (daemon,) = (each for each in self.room[name].processes() if each.name() == "slurmd")
        daemon.terminate()
        until(lambda: not daemon.is_running(), PATIENCE_S, "the end of slurmd")
        self.room[name].enter("slurmd")

    def tidy(self) -> None:
        """Cancel all jobs, bring back what crashed or was cut off, and wait until every node is idle."""
        for user in (self.alice, self.bob):
            self.scancel("--user", user.name)
        for node in self.nodes:
            if node.pid:
                node.restore()
            else:
                self.bring_back(node.name)
        until(self._all_idle, PATIENCE_S, "all nodes idle")

    def stop_controller(self) -> None:
        controller = self._controller()
        controller.terminate()
        until(lambda: not controller.is_running(), PATIENCE_S, "the end of slurmctld")

    def start_controller(self) -> None:
        """Start slurmctld, and wait until it answers."""
        self.room["ctl"].enter("slurmctld")
        until(
            lambda: not self.login.enter("scontrol", "ping", check=False).returncode, PATIENCE_S, "slurmctld's answer"
        )

    # How it is made.

    def _lay_out_folder(self) -> None:
        self.folder.chmod(0o755)
        for name in ("state", "spool", *(f"spool/{node}" for node in self.specs), "etc", "etc/slurm", "etc/munge"):
            (self.folder / name).mkdir()
        (self.shared / "home").mkdir(parents=True)
        self.shared.chmod(0o1777)
        for user in (self.alice, self.bob):
            user.home.mkdir(mode=0o700)
            os.chown(user.home, user.uid, user.uid)
        self._write_etc(self.folder / "etc")

    def _write_etc(self, etc: Path) -> None:
        users = (self.alice, self.bob)
        (etc / "passwd").write_text(site.passwd(Path("/etc/passwd").read_text(), users))
        (etc / "group").write_text(site.group(Path("/etc/group").read_text(), users, herders=[self.alice]))
        (etc / "slurm/slurm.conf").write_text(site.slurm_conf(self.folder, list(self.specs.values())))
        (etc / "slurm/gres.conf").write_text(site.gres_conf(list(self.specs.values())))
        (etc / "slurm/cgroup.conf").write_text(site.CGROUP_CONF)
        (etc / "munge").chmod(0o700)
        (etc / "munge/munge.key").write_bytes(secrets.token_bytes(128))
        (etc / "munge/munge.key").chmod(0o400)

    def _start_munged(self, machine: Machine) -> None:
        machine.enter("mkdir", "/run/munge")
        machine.enter("munged", f"--log-file={machine.logs}/munged.log", "--seed-file=/run/munge/seed")

    def _start_slurmd(self, node: Machine) -> None:
        for file in self.specs[node.name].gpu_files:
            node.enter("mknod", "--mode=666", file, "c", "1", "3")
        node.enter("slurmd")

    def _controller(self) -> psutil.Process:
        (controller,) = (each for each in self.room["ctl"].processes() if each.name() == "slurmctld")
        return controller

    def _all_idle(self) -> bool:
        return set(self.node_states().values()) == {"idle"}


def _fields(line: str) -> dict[str, str]:
    return dict(re.findall(r"([A-Z][\w/:]*)=(.*?)(?= [A-Z][\w/:]*=|$)", line))


def main() -> None:
    """Keep a cluster up until Ctrl-C."""
    if reason := packages.why_not() or permissions.why_not():
        sys.exit(f"corral: no SLURM cluster here: {reason}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with SlurmCluster() as slurm:
        print(slurm.login.enter("sinfo", "--Node", "--long").stdout)
        for user in (slurm.alice, slurm.bob, ROOT):
            print(f"a shell of {user.name} on the login machine:  {_way_in(slurm, user)}")
        print(f"addresses: {', '.join(f'{machine.name} {machine.address}' for machine in slurm.room)}")
        print(f"seen by all: {slurm.shared}    logs: {slurm.folder}/log    Ctrl-C ends it", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("\nending it", flush=True)


def _way_in(slurm: SlurmCluster, user: User) -> Path:
    """A script that opens a shell, with Corral's commands on the path."""
    script = slurm.folder / f"as-{user.name}"
    path = f"{Path(sys.prefix) / 'bin'}:{user.environment['PATH']}"
    variables = {**user.environment, "PATH": path}
    words = ["env", "-i", *(f"{key}={value}" for key, value in variables.items()), *slurm.login.argv("bash", user=user)]
    script.write_text(f"#!/bin/sh\nexec {shlex.join(words)}\n")
    script.chmod(0o755)
    return script


if __name__ == "__main__":
    main()
