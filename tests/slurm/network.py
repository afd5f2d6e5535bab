"""One switch for the machines of a room, and a network that this host does not use otherwise."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterator

from tests.slurm.commands import MachineError, end, run, start_ready

RANGES = ("10.77.{}.0/24", "198.18.{}.0/24")
"""Where a network is looked for; the second range is set aside for tests (RFC 2544)."""
NOBODY = "02:00:00:00:00:00"
"""The hardware address of no machine: what is sent there arrives nowhere, and nobody is told."""
GATE = 254
"""Last number of the address that the host itself has in a room."""


class Switch:
    """A network namespace with a bridge. The host has an address on it, so that tests reach the machines directly."""

    def __init__(self) -> None:
        self.subnet = ipaddress.IPv4Network("0.0.0.0/0")
        self.cable = ""
        """Name of the host's own network card in the room."""
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        bridge = "ip link add br0 type bridge && ip link set br0 up && echo ready && exec cat"
        self._process = start_ready("the switch", ["unshare", "--net", "sh", "-c", bridge])
        self.subnet = self._claim_subnet()

    def stop(self) -> None:
        """The namespace goes, and the cable to it; the kernel alone would take its time over that."""
        if self.cable:
            subprocess.run(["ip", "link", "del", self.cable], capture_output=True, check=False)
        if self._process is not None:
            end(self._process)
        self.cable, self._process = "", None

    def plug(self, name: str, pid: int, address: ipaddress.IPv4Address) -> None:
        """Give the machine whose PID 1 is `pid` a network card `eth0` with this address."""
        hardware = f"02:00:00:00:00:{int(address) & 0xFF:02x}"  # the same after a crash, or the others' ARP tables lie
        cable = f"link add {name} type veth peer name eth0 address {hardware} netns {pid}"
        self._ip(cable, f"link set {name} master br0 up")
        # The route lets programs find out their own address by asking for a way to anywhere; nothing is behind it.
        card = (f"addr add {address}/24 dev eth0", "link set eth0 up", "route add default dev eth0")
        _ip(pid, "link set lo up", *card)

    def unplug(self, name: str) -> None:
        # The kernel takes the cable away with the machine's namespace, but in its own time.
        subprocess.run([*_in_network(self._pid), "ip", "link", "del", name], capture_output=True, check=False)

    def turn(self, name: str, state: str) -> None:
        """Turn a machine's port `up` or `down`."""
        self._ip(f"link set {name} {state}")

    @staticmethod
    def part(one: tuple[int, str], other: tuple[int, str]) -> None:
        """Have neither of two machines, each a PID 1 and its address, find the way to the other."""
        for (pid, _), (_, address) in ((one, other), (other, one)):
            _ip(pid, f"neigh replace {address} lladdr {NOBODY} dev eth0 nud permanent")

    @staticmethod
    def meet(pid: int) -> None:
        """Undo `part` on the machine with this PID 1."""
        _ip(pid, "neigh flush dev eth0 nud permanent")

    @property
    def _pid(self) -> int:
        assert self._process is not None, "the switch was not started"
        return self._process.pid

    def _ip(self, *commands: str) -> None:
        _ip(self._pid, *commands)

    def _claim_subnet(self) -> ipaddress.IPv4Network:
        """The first range that no route of the host touches; the cable's name keeps other clusters off it."""
        for subnet in free_subnets():
            name = "corral" + "-".join(str(subnet.network_address).split(".")[1:3])
            cable = f"link add {name} type veth peer name gate netns {self._pid}"
            try:
                _ip(None, cable)
            except MachineError as error:
                if "File exists" not in str(error):
                    raise
                continue
            self.cable = name
            _ip(None, f"addr add {subnet[GATE]}/24 dev {name}", f"link set {name} up")
            self._ip("link set gate master br0 up")
            return subnet
        raise MachineError(f"no free network among {', '.join(RANGES)}: routes of this host touch them all")


def free_subnets() -> Iterator[ipaddress.IPv4Network]:
    routes = json.loads(run(["ip", "-j", "-4", "route", "show", "table", "all"]) or "[]")
    taken = [ipaddress.IPv4Network(route["dst"]) for route in routes if route["dst"] != "default"]
    for pattern in RANGES:
        candidates = (ipaddress.IPv4Network(pattern.format(number)) for number in range(256))
        yield from (subnet for subnet in candidates if not any(map(subnet.overlaps, taken)))


def _ip(pid: int | None, *commands: str) -> None:
    """Run `ip` commands in the network namespace of a process, or in the host's."""
    run([*(_in_network(pid) if pid else ()), "ip", "-batch", "-"], "\n".join(commands))


def _in_network(pid: int) -> list[str]:
    return ["nsenter", "-t", str(pid), "-n"]
