"""What every node's agent has and does, whether it becomes the head or a worker."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from app.allocation.addresses import interfaces_here, own_address, resolve_here
from app.allocation.local_folder import DISK, held, remove_stale
from app.allocation.log_mirror import LogMirror
from app.allocation.records import NodeRecord, ServiceJob
from app.cluster import Cluster, Place, Ports
from app.ports import PortBlock, free_range
from app.settings import Settings
from deployments.config import label_resource
from slurm.allocation import Allocation
from slurm.config import ClusterConfig, NodeGroup
from slurm.staging import copy
from slurm.timeline import append

WATCH_S = 0.5
MIRROR_S = 1.0
TOLD_TO_END = 75
"""Exit status of an agent that SLURM ended: the batch shell then waits for what SLURM has decided (sysexits.h)."""

HEAD_LOST = 76
"""Exit status of a worker whose cluster is gone though the job was not told to end."""


class AgentError(Exception):
    """This node cannot take part; the message is for the person who submitted the job."""


@dataclass(frozen=True)
class Agent:
    """One node of one job. `job` is its own, `main` the one whose service it belongs to (another for a joiner)."""

    job: ServiceJob
    main: ServiceJob
    settings: Settings
    allocation: Allocation
    node: str
    group: NodeGroup
    local: Path
    address: str

    @classmethod
    def here(cls, job: ServiceJob, settings: Settings, node: str, group: str, local: Path) -> Agent:
        """Raises AddressError, AgentError, slurm.errors.NotInJob."""
        config = settings.cluster
        chosen = next((each for each in config.components if each.name == group), None) if config else None
        if config is None or chosen is None:
            raise AgentError(f"cluster.groups: the profile has no group {group!r}")
        address = own_address(config.interface, node, interfaces_here(), resolve_here)
        allocation = Allocation.from_environment(os.environ)
        return cls(job, job.joined(), settings, allocation, node, chosen, local, address)

    @property
    def config(self) -> ClusterConfig:
        assert self.settings.cluster is not None
        return self.settings.cluster

    @property
    def record(self) -> NodeRecord:
        here = self.allocation
        return NodeRecord(self.node, self.group.name, here.job_id, here.restarts, "starting", self.address)

    def say(self, phase: str, detail: str = "") -> None:
        """Leave word of how far this node is. A shared folder that fails for a moment is no reason to end."""
        with contextlib.suppress(OSError):
            path = self.main.node_file(self.node, self.group.name)
            replace(self.record, phase=phase, detail=detail).write(path)

    def event(self, what: str, who: str | None = None) -> None:
        """A line of the timeline."""
        with contextlib.suppress(OSError):
            append(self.main.timeline, what, who or self.node, time.time)

    def cluster(self, block: PortBlock, gcs: str | None, replica_ports: int | None = None) -> Cluster:
        """Ray on this node: the head where `gcs` is None, else a node that joins it."""
        ray = self.settings.ray
        offered = {f"{label_resource(key, value)}": 1.0 for key, value in self.labels.items()}
        place = Place(
            address=self.address,
            serve_host="0.0.0.0",  # noqa: S104 (Serve gives one address to replicas on all nodes)
            gcs=gcs,
            token=self.main.token,
            progress=self.main.progress,
            gpus=len(self.allocation.gpus),
            node_timeout_s=self.config.node_timeout_s,
            resources=offered,
        )
        return Cluster(
            run_dir=self.local,
            ports=Ports.of_block(block, replica_ports or free_range(400, "")),
            cpus=ray.cpus or self.allocation.cpus,
            object_store_bytes=int(ray.object_store),
            dashboard=ray.include_dashboard,
            extra=ray.environment,
            place=place,
        )

    @property
    def labels(self) -> dict[str, str]:
        """The group's, and its name as the label `group`."""
        return {"group": self.group.name, **self.group.labels}

    async def copy_weights(self) -> IO[bytes] | None:
        """Copy the staged models that may land here to this node's own disk. Raises StagingError, OSError.

        The others are linked to, so that every node reads every model under the same path. Keep what comes back open.
        """
        folders = local_weights(self.settings, self.main)
        if not folders:
            return None
        place = copies(self.config, self.main)
        remove_stale(os.getuid(), place.parent)
        lock = held(place, os.getuid())
        here = {spec.source for spec in self.settings.specs if spec.hardware.labels.items() <= self.labels.items()}
        for source, target in folders.items():
            if source in here:
                await asyncio.to_thread(copy, Path(source), target, self._progress(target.name))
            elif not target.is_symlink():
                target.symlink_to(source)
        self.event("weights copied")
        return lock

    def _progress(self, name: str) -> Callable[[int, int], None]:
        said = -1

        def progress(done: int, total: int) -> None:
            nonlocal said
            percent = 100 * done // max(1, total)
            if percent // 5 != said // 5:
                said = percent
                self.say("copying weights", f"{name} {percent} %")

        return progress

    def remove_weights(self) -> None:
        if self.config.copy_weights:
            shutil.rmtree(copies(self.config, self.main), ignore_errors=True)

    def told_to_stop(self) -> bool:
        """Whether this job, or the one it belongs to, is to end."""
        return is_there(self.job.stop) or is_there(self.main.stop)

    @property
    def watch_s(self) -> float:
        """How often a node looks at the shared folder, so that many nodes together do not overrun it."""
        return max(WATCH_S, len(self.allocation.nodes) / 16)

    async def mirror_logs(self) -> None:
        """Copy Ray's logs to the job folder until cancelled, and what is left at the end."""
        mirror = LogMirror(self.local, self.main.logs / self.node)
        try:
            while True:
                await asyncio.to_thread(mirror.copy_new)
                await asyncio.sleep(MIRROR_S)
        finally:
            mirror.copy_new()


def copies(config: ClusterConfig, main: ServiceJob) -> Path:
    """Where a node's own copies lie: the same for all nodes of a service's job, joiners' among them."""
    return (config.local or DISK) / f"corral-weights-{main.path.name}"


def local_weights(settings: Settings, main: ServiceJob) -> dict[str, Path]:
    """Staged folder -> its copy on a node's own disk, for the models that were staged on the shared folder."""
    config = settings.cluster
    if config is None or not config.copy_weights:
        return {}
    staged = (spec.source for spec in settings.specs if Path(spec.source).is_relative_to(config.shared))
    return {source: copies(config, main) / _name(source) for source in staged}


def _name(source: str) -> str:
    """The folder's name, told apart from namesakes elsewhere."""
    return f"{Path(source).name}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def with_copies(settings: Settings, main: ServiceJob, at_the_start: Settings | None = None) -> Settings:
    """The settings with every staged model read from the node's own copy, of those that were there at the start."""
    folders = local_weights(at_the_start or settings, main)
    models = {
        key: spec.model_copy(update={"source": str(folders[spec.source])}) if spec.source in folders else spec
        for key, spec in settings.models.items()
    }
    return settings.model_copy(update={"models": models})


def is_there(path: Path) -> bool:
    """Whether it exists; what a shared folder in trouble says counts as no. (Path.exists raises some of it.)"""
    return os.path.exists(path)  # noqa: PTH110


def refresh(folder: Path) -> None:
    """Have NFS look at a folder anew; it may else take half a minute to see what other nodes put there."""
    with contextlib.suppress(OSError):
        os.utime(folder)
