"""Machines on one kernel: namespaces with an address, a hostname, processes, a /tmp and a /dev/shm of their own.

A machine hangs on its PID 1, and PID 1 ends with this process, however that ends. Namespaces and mounts have no name
outside, so they end with it too; only a folder and empty cgroups could outlive a killed test run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.slurm.commands import MachineError, end, run, start_ready
from tests.slurm.lifecycle import Lifecycle
from tests.slurm.network import Switch

REPOSITORY = Path(__file__).parents[2]
INIT = Path(__file__).with_name("machine.sh")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class User:
    """A Unix user of the machines, unknown to the host."""

    name: str
    uid: int
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        login = {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name, "SHELL": "/bin/bash"}
        return {**login, "PATH": PATH, "LANG": "C.UTF-8", "TERM": os.environ.get("TERM", "dumb")}


ROOT = User("root", 0, Path("/root"))


@dataclass
class Machine:
    """One machine; may be started again after a crash, with the same disk, name and address."""

    name: str
    number: int
    """Last number of its address."""
    room: MachineRoom
    pid: int = 0
    """PID 1, as the host counts; 0 while the machine is off."""
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return str(self.room.switch.subnet[self.number])

    @property
    def logs(self) -> Path:
        """The folder with what its daemons wrote."""
        return self.room.folder / "log" / self.name

    def start(self) -> None:
        kinds = ["--net", "--uts", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        init = ["bash", str(INIT), self.name, str(self.room.folder), self.room.cgroup, *map(str, self.room.kept)]
        self._process = start_ready(self.name, ["unshare", *kinds, *init])
        (child,) = psutil.Process(self._process.pid).children()
        self.pid = child.pid
        self.room.switch.plug(self.name, self.pid, self.room.switch.subnet[self.number])

    def enter(
        self, *argv: str, user: User = ROOT, cwd: Path | None = None, env: Mapping[str, str] | None = None,
        text: str = "", timeout_s: float = 60, check: bool = True,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command as `user` in a fresh login environment plus `env`; MachineError if it fails and `check`."""
        process = self.popen(*argv, user=user, cwd=cwd, env=env)
        try:
            out, err = process.communicate(text, timeout=timeout_s)
        finally:
            kill(process)
        if check and process.returncode:
            said = (err + out).strip()
            raise MachineError(f"{self.name}: {' '.join(argv)} ended with {process.returncode}: {said}")
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def popen(
        self, *argv: str, user: User = ROOT, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Like `enter`, but leave it running. Signals go to `inside` it; `kill` ends it."""
        return subprocess.Popen(
            self.argv(*argv, user=user, cwd=cwd), env={**user.environment, **(env or {})}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def argv(self, *argv: str, user: User = ROOT, cwd: Path | None = None) -> list[str]:
        """The command line that does it from outside."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", f"--wdns={cwd or user.home}"]
        become = ["setpriv", "--reuid", user.name, "--regid", user.name, "--init-groups", "--pdeathsig", "KILL"]
        return [*enter, *become, "--", *argv]

    def processes(self, user: User | None = None) -> list[psutil.Process]:
        """What runs on it, of one user or of all, as the host counts; without PID 1."""
        space = _pid_space(self.pid)
        here = [each for each in psutil.process_iter() if each.pid != self.pid and _pid_space(each.pid) == space]
        return [each for each in here if user is None or _owner(each) == user.uid]

    def crash(self, silent: bool = False) -> None:
        """Kill PID 1 and so everything. The kernel still closes its connections; `silent` pulls the cable first."""
        if silent:
            self.cut()
        self._power_off()
        self.room.switch.unplug(self.name)
        self.room.remove_cgroups(self.name)

    def cut(self) -> None:
        """Take it off the network: no packet passes, and no connection is closed."""
        self.room.switch.turn(self.name, "down")

    def part(self, other: Machine) -> None:
        """Let no packet pass between the two, and close no connection; both still reach all others."""
        self.room.switch.part((self.pid, self.address), (other.pid, other.address))

    def restore(self) -> None:
        """Undo `cut`, and this machine's side of `part`."""
        self.room.switch.turn(self.name, "up")
        self.room.switch.meet(self.pid)

    def stop(self) -> None:
        """Switch it off, if it is on."""
        if self._process is not None:
            self._power_off()

    def _power_off(self) -> None:
        assert self._process is not None, f"{self.name} is off"
        if self.pid:  # else it did not come up, and the end of its standard input ends it
            os.kill(self.pid, signal.SIGKILL)
        end(self._process)
        self.pid, self._process = 0, None


class MachineRoom(Lifecycle):
    """Machines on one switch, sharing one folder. `machines` maps names to the last number of their addresses.

    `folder` must exist. It is at the same path on every machine and outside; folder/etc/X becomes /etc/X on them.
    """

    def __init__(self, folder: Path, machines: Mapping[str, int]) -> None:
        self.folder = folder
        self.switch = Switch()
        self.cgroup = folder.name
        self.kept = (folder, REPOSITORY, Path(sys.prefix), Path(sys.base_prefix))
        self._machines = {name: Machine(name, number, self) for name, number in machines.items()}

    def __getitem__(self, name: str) -> Machine:
        return self._machines[name]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self._machines.values())

    def start(self) -> None:
        (self.folder / "mnt").mkdir()
        self.switch.start()
        self._write_names()
        for machine in self:
            machine.logs.mkdir(parents=True)
            machine.start()

    def stop(self) -> None:
        """Switch everything off. Nothing of it is left but the folder."""
        for machine in self:
            machine.stop()
        self.switch.stop()
        self.remove_cgroups()

    def remove_cgroups(self, machine: str = "") -> None:
        """Remove the empty cgroups of one machine or of all; a host with cgroup v2 does not show them."""
        top = self.folder / "mnt" / self.cgroup / machine
        mount = f'mount -t cgroup -o freezer cgroup "{self.folder}/mnt"'
        remove = f'[ ! -e "{top}" ] || find "{top}" -depth -type d -exec rmdir {{}} +'
        run(["unshare", "--mount", "sh", "-c", f"{mount} && {remove}"])

    def _write_names(self) -> None:
        etc = self.folder / "etc"
        etc.mkdir(exist_ok=True)
        lines = ["127.0.0.1 localhost", *(f"{machine.address} {machine.name}" for machine in self)]
        (etc / "hosts").write_text("\n".join(lines) + "\n")
        if Path("/etc/resolv.conf").exists():
            (etc / "resolv.conf").touch()  # empty: names of the outside world fail at once, not after a time-out


def _pid_space(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def _owner(process: psutil.Process) -> int | None:
    try:
        return process.uids().real
    except psutil.NoSuchProcess:
        return None


def inside(process: subprocess.Popen[str]) -> psutil.Process:
    """The command that `Machine.popen` started; the process itself only waits for it, outside the machine."""
    (child,) = psutil.Process(process.pid).children()
    return child


def kill(process: subprocess.Popen[str]) -> None:
    """End what `Machine.popen` started. The command goes first: without its parent nobody in there would reap it."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.communicate(timeout=30)
