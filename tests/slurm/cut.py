"""A node's network that is cut under a load and heals: what was in flight beyond the cut, and who answered what."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from loadtests.faults.asks import Ask, Way, bulk, models, stream
from loadtests.faults.load import Load, Outcome
from loadtests.faults.measure import Measured, log_lines, measure, wait
from loadtests.faults.parts import SERVERS, Parts
from loadtests.faults.report import in_short
from loadtests.faults.strikes import Fault, Struck
from slurm.timeline import parse_timeline
from tests.serve.service import title
from tests.slurm.machines import Machine
from tests.slurm.service import SlurmService

MODEL = "pocket-1b"
TOKENS = 160
THINK_S = 1.0
BEGUN_S = 0.4
"""By then a stream has its first tokens."""
USERS: tuple[tuple[Ask, ...], ...] = (*[(stream(MODEL, TOKENS),)] * 3, (models(), bulk(MODEL, 1)))
"""Streams, since the edge asks another replica where nothing of an answer has come."""
RAYS = ("ray::", "EngineCore", "/raylet", "ray.scripts")
"""What is in the titles of processes of Ray, of replicas and of engines."""


@dataclass
class NetworkCut:
    """Of `victim`, which holds one of the two replicas of MODEL: from the head's node alone, or from all machines.

    `at`, `whole` (two replicas again) and `healed` are of the monotonic clock, as the load's outcomes are.
    """

    herd: SlurmService
    victim: Machine
    from_all: bool
    folder: Path
    at: float = 0.0
    at_unix: float = 0.0
    whole: float = 0.0
    healed: float = 0.0
    load: Load = field(init=False)
    parts: Parts = field(init=False)

    def __post_init__(self) -> None:
        """The edge is looked at from the host, through the head's root."""
        place = f"/proc/{self._head.pid}/root/tmp/corral-{self.herd.address.job_id}"
        file = self.folder / "head.json"
        file.write_text(json.dumps({"run_dir": place}))
        self.parts = Parts(file)
        self.load = Load(self.herd.address.url, USERS, self.herd.key, THINK_S)

    def measured(self) -> Measured:
        """Cut while the load goes on, and wait until two replicas are there again, without the victim."""
        return measure(self.parts, self.load, Fault("network", MODEL, self._strike), self._lacks)

    def heal(self) -> None:
        self.healed = self.load.clock()
        for machine in (self._head, self.victim):
            machine.restore()

    @property
    def _head(self) -> Machine:
        return self.herd.slurm.room[self.herd.address.node]

    def _strike(self, parts: Parts) -> Struck:
        beyond = {name for name, row in self._servers().items() if row["srv_addr"] == self.victim.address}
        wait(lambda: any(self._has_begun(name) for name in beyond), f"a stream from {self.victim.name}")
        if self.from_all:
            self.victim.cut()
        else:
            self.victim.part(self._head)
        self.at, self.at_unix = self.load.clock(), time.time()
        # What the gateway was asked may have had a part of it on the victim.
        gateways = {slot.name for slot in parts.slots("gateway")} | {"gateway/serve"}
        return Struck(f"{self.victim.name}, {sorted(beyond)}", frozenset(beyond | gateways))

    def _servers(self) -> Mapping[str, dict[str, str]]:
        """The edge's servers of the model that are in use, by the names that its log has."""
        _, *lines = self.parts.ask_edge(f"{SERVERS} model-{MODEL}").splitlines()  # the first is a version
        rows = csv.DictReader([line.removeprefix("# ") for line in lines if line], delimiter=" ")
        return {f"{row['be_name']}/{row['srv_name']}": row for row in rows
                if row["srv_name"] != "serve" and row["srv_admin_state"] in ("0", "4")}  # fmt: skip

    def _has_begun(self, server: str) -> bool:
        """Whether the same streams have been under way there for a while."""
        before = self._sessions(server)
        time.sleep(BEGUN_S if before[0] else 0)
        return before[0] > 0 and self._sessions(server) == before

    def _sessions(self, server: str) -> tuple[int, int]:
        """How many requests the edge has on a server, and has had."""
        rows = csv.DictReader(self.parts.ask_edge("show stat").removeprefix("# ").splitlines())
        return next((int(row["scur"]), int(row["stot"])) for row in rows
                    if f"{row['pxname']}/{row['svname']}" == server)  # fmt: skip

    def _lacks(self) -> str:
        status = self.herd.status
        if status.nodes[self.victim.name]["state"] != "lost":
            return f"the head's notice of the loss: {status.nodes}"
        servers = self._servers()
        up = [row["srv_addr"] for row in servers.values() if row["srv_op_state"] != "0"]
        if self.victim.address in up or len(up) != 2 or len(servers) != 2:
            return f"a second replica behind the edge, which has {servers}"
        if self.herd.replicas(MODEL) != 2:
            return f"replicas: {status.models}"
        self.whole = self.load.clock()
        return ""

    # What is there, and what was.

    def beyond(self) -> list[psutil.Process]:
        """Processes of Ray on the victim, replicas and engines among them."""
        return [each for each in self.victim.processes(self.herd.user) if any(part in title(each) for part in RAYS)]

    def replicas(self) -> dict[str, int]:
        """Node -> how many replicas of the model run there."""
        mine = f"ServeReplica:model-{MODEL}:"
        counts = {node.name: sum(mine in title(each) for each in node.processes(self.herd.user))
                  for node in self.herd.slurm.nodes}  # fmt: skip
        return {name: count for name, count in counts.items() if count}

    def joined_by(self) -> int:
        """The job whose worker runs on the victim and has joined; 0 while none has."""
        (record,) = [each for each in self.herd.job.node_records() if each.node == self.victim.name]
        return record.job_id if record.phase == "joined" else 0

    def jobs(self) -> set[str]:
        return set(self.herd.slurm.squeue("--noheader", "--format=%i", f"--user={self.herd.user.name}").split())

    def failed_since(self, moment: float) -> list[Outcome]:
        return [each for each in self.load.outcomes if each.failure and each.ended >= moment]

    def answered_since(self, moment: float) -> int:
        return len(self.load.answered_since(moment, MODEL))

    def streams(self) -> set[str]:
        """Ids of the streams that came whole."""
        return {each.id for each in self.load.outcomes if not each.failure and each.ask.way is Way.STREAM}

    def tries(self) -> Mapping[str, int]:
        """Request id -> how many servers the edge has asked."""
        lines = log_lines(self.parts.edge_log, 0)
        return {name: 1 + int(str(told["retries"]).lstrip("+")) for name, told in lines}

    def engine_lines(self) -> Counter[str]:
        """Id of a stream -> how many calls to engines are told of in the logs of all nodes."""
        files = self.herd.job.logs.glob("*/requests_model-*.log")
        lines = (line for file in files for line in file.read_text().splitlines())
        asked = {each.id for each in self.load.outcomes if each.ask.way is Way.STREAM}
        calls = (told["id"] for line in lines if (told := _told(line)).get("event") == "engine")
        return Counter(each for each in calls if each in asked)

    def events(self, what: str) -> list[float]:
        """When this happened to the victim, in seconds since the cut."""
        events = parse_timeline(self.herd.job.timeline.read_text(errors="replace"))
        times = [each.at - self.at_unix for each in events if (each.what, each.who) == (what, self.victim.name)]
        return [at for at in times if at > 0]

    def told(self, one: Measured, joined: float) -> str:
        """The figures, for people who read a log. joined: when the victim was back, by the monotonic clock."""
        hung = max((each.ended - self.at for each in self.load.outcomes if each.failure), default=0.0)
        return (
            f"{in_short(one)}\nloss seen {self.events('node lost')[0]:.1f} s after the cut, the last failure came "
            f"{hung:.1f} s after it, two replicas again {self.whole - self.at:.1f} s; the network was back after "
            f"{self.healed - self.at:.1f} s and the node {joined - self.healed:.1f} s later "
            f"(lost {len(self.events('node lost'))} times); {len(self.load.outcomes)} requests in all"
        )


def _told(line: str) -> dict[str, str]:
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
