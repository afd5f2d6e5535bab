"""What a computing centre decides: nodes, partitions, users. Rendered as the files that SLURM and Unix read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.slurm.machines import User

GPU = "/run/gpu"
"""Fake GPUs: SLURM hands out only what is a device file."""


@dataclass(frozen=True)
class Node:
    """A compute node. Memory and CPUs are what SLURM is told; they need not be there."""

    name: str
    gpus: int
    gpu_type: str
    cpus: int = 4
    memory_mb: int = 6000

    @property
    def gpu_files(self) -> list[str]:
        return [f"{GPU}{number}" for number in range(self.gpus)]


NODES = (Node("n1", 4, "big"), Node("n2", 2, "small"), Node("n3", 2, "small"))
SHORT_MINUTES = 5
"""MaxTime of the partition `short`."""

# urgent preempts what runs in the others; members is for the Unix group herders, paid for the account llamas.
PARTITIONS = f"""\
PartitionName=DEFAULT Nodes=ALL State=UP OverSubscribe=NO MaxTime=INFINITE PriorityTier=1 GraceTime=10
PartitionName=debug Default=YES
PartitionName=short MaxTime={SHORT_MINUTES}
PartitionName=members AllowGroups=herders
PartitionName=paid AllowAccounts=llamas
PartitionName=urgent PriorityTier=10 PreemptMode=OFF
"""


def slurm_conf(folder: Path, nodes: Sequence[Node]) -> str:
    """`folder` is the cluster's own; the machines' hosts file knows the addresses."""
    named = "\n".join(
        f"NodeName={node.name} CPUs={node.cpus} RealMemory={node.memory_mb} "
        f"Gres=gpu:{node.gpu_type}:{node.gpus} Feature={node.gpu_type}"
        for node in nodes
    )
    return f"""\
ClusterName={folder.name}
SlurmctldHost=ctl
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for as long as a credential lives.
AuthInfo=cred_expire=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={folder}/log/ctl/slurmctld.log
SlurmdLogFile={folder}/log/%n/slurmd.log
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobs.txt
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
GresTypes=gpu
ProctrackType=proctrack/cgroup
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
EnforcePartLimits=ALL
ReturnToService=2
JobRequeue=1
KillOnBadExit=0
InactiveLimit=0
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=20
SrunPortRange=60001-60100
{named}
{PARTITIONS}"""


def gres_conf(nodes: Sequence[Node]) -> str:
    return "".join(
        f"NodeName={node.name} Name=gpu Type={node.gpu_type} File={file}\n" for node in nodes for file in node.gpu_files
    )


CGROUP_CONF = "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n"


def passwd(host: str, users: Sequence[User]) -> str:
    """The host's own users, without its namesakes of ours, and ours."""
    ours = [f"{user.name}:x:{user.uid}:{user.uid}::{user.home}:/bin/bash" for user in users]
    return "\n".join([*_others(host, users), *ours]) + "\n"


def group(host: str, users: Sequence[User], herders: Sequence[User]) -> str:
    ours = [f"{user.name}:x:{user.uid}:" for user in users]
    club = f"herders:x:61000:{','.join(user.name for user in herders)}"
    return "\n".join([*_others(host, users), *ours, club]) + "\n"


def _others(host: str, users: Sequence[User]) -> list[str]:
    names, numbers = {user.name for user in users}, {str(user.uid) for user in users}
    fields = [(line, line.split(":")) for line in host.splitlines() if line.strip()]
    return [line for line, (name, _, number, *_) in fields if name not in names and number not in numbers]
