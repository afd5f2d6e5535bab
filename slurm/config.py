"""ClusterConfig: what a profile says about the allocation that the herd lives in.

Sizes are bytes (YAML may say "64 GiB"), GPUs, CPUs and memory are per node. What SLURM, a shell or a container
runtime could misread is refused here, with the field named; everything else is quoted where it is used.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from slurm.binds import Bind, plain, plain_folder
from slurm.walltime import FORMS, format_walltime, parse_walltime

MIB = 1 << 20
LONGEST_WARNING_S = 65_535  # what sbatch takes in --signal

OWN_OPTIONS = {
    "account": "account", "partition": "partition", "qos": "qos", "reservation": "reservation",
    "constraint": "constraint", "time": "walltime", "nodes": "groups.nodes", "cpus-per-task": "groups.cpus",
    "mem": "groups.memory", "gres": "groups.gpus", "gpus": "groups.gpus", "gpus-per-node": "groups.gpus",
    "signal": "drain_s", "requeue": "requeue", "no-requeue": "requeue",
    **dict.fromkeys(
        ("job-name", "comment", "output", "error", "open-mode", "ntasks", "ntasks-per-node", "array", "wrap", "export",
         "no-kill", "het-group", "parsable", "test-only", "wait"), "",
    ),
}  # fmt: skip
"""Options of sbatch that `extra` must not repeat -> the field to use instead, if there is one."""


class Section(BaseModel):
    """A frozen part of a profile that refuses unknown keys and names the valid ones.

    The twin of the deployments' Section: a leaf imports nothing of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _name_the_valid_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), list(cls.model_fields), n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(f"unknown key {key!r}{hint}; valid keys: {', '.join(sorted(cls.model_fields))}")
        return data


def _matching(pattern: str, what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"{text!r} is not {what}")
        return text

    return AfterValidator(check)


def _read_walltime(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):  # YAML makes 5400 of 1:30:00
        raise ValueError(f"put the walltime in quotes, for example '1:30:00' or '90' ({FORMS})")
    return parse_walltime(value) if isinstance(value, str) else value


Line = Annotated[str, Field(min_length=1), AfterValidator(plain)]
"""Text without line breaks or other control characters."""

Word = Annotated[str, _matching(r"[A-Za-z0-9_][A-Za-z0-9_.,:@+-]*", "a name: letters, digits and . , : @ + _ -")]
Feature = Annotated[
    str, _matching(r"[A-Za-z0-9_.,:&|*()\[\]=!+-]+", "a constraint: features joined by & or |, no spaces")
]
GroupName = Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}", "a group's name: letters, digits, _ and -")]
LabelKey = Annotated[str, _matching(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,60}[A-Za-z0-9])?", "a label's key")]
LabelValue = Annotated[str, _matching(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,60}[A-Za-z0-9])?)?", "a label's value")]
Memory = Annotated[ByteSize, Field(ge=MIB)]
Folder = Annotated[Path, AfterValidator(plain_folder)]
Walltime = Annotated[
    timedelta, BeforeValidator(_read_walltime), PlainSerializer(format_walltime, return_type=str, when_used="json")
]


class Container(Section):
    """What the nodes' processes run in. Images are read-only, the host's network is used, HOME is not inside."""

    kind: Literal["none", "apptainer", "pyxis", "charliecloud"] = "none"
    image: Line | None = Field(None, description="Path of the image (a folder for charliecloud), or its name.")
    binds: tuple[str, ...] = Field((), description="Further folders, host[:inside[:ro]].")
    args: tuple[Line, ...] = Field((), description="Further arguments of the container runtime (of srun, for pyxis).")

    @field_validator("image")
    @classmethod
    def _image_is_no_option(cls, image: str | None) -> str | None:
        if image is not None and image.startswith("-"):
            raise ValueError(f"{image!r} looks like an option; write ./{image} for a file of that name")
        return image

    @field_validator("binds")
    @classmethod
    def _binds_can_be_read(cls, binds: tuple[str, ...]) -> tuple[str, ...]:
        for text in binds:
            Bind.parse(text)
        return binds

    @model_validator(mode="after")
    def _whole(self) -> Container:
        if self.kind == "none" and (self.image or self.binds or self.args):
            raise ValueError("kind is none, but an image, binds or args are set; set kind or drop them")
        if self.kind != "none" and self.image is None:
            raise ValueError(f"kind is {self.kind}, but there is no image; set image")
        for bind in self.mounts:
            bind.check(self.kind)
        return self

    @property
    def mounts(self) -> tuple[Bind, ...]:
        """The binds, parsed."""
        return tuple(Bind.parse(text) for text in self.binds)


class NodeGroup(Section):
    """Nodes of one kind. Several groups make a heterogeneous job."""

    name: GroupName = "main"
    nodes: int = Field(1, ge=1)
    gpus: int = Field(0, ge=0)
    gpu_type: Word | None = Field(None, description="SLURM's name of the GPU, for example h200.")
    cpus: int | None = Field(None, ge=1, description="The site's default if unset.")
    memory: Memory | None = Field(None, description="The site's default if unset.")
    partition: Word | None = None
    constraint: Feature | None = None
    account: Word | None = None
    labels: dict[LabelKey, LabelValue] = Field({}, description="Labels of these nodes that models are placed by.")

    @model_validator(mode="after")
    def _gpu_type_needs_gpus(self) -> NodeGroup:
        if self.gpu_type and not self.gpus:
            raise ValueError("gpu_type is set but gpus is 0; set gpus or drop gpu_type")
        return self


class ClusterConfig(Section):
    """One allocation. The first group's first node is the head."""

    account: Word | None = None
    partition: Word | None = Field(None, description="The site's default if unset.")
    qos: Word | None = None
    reservation: Word | None = None
    constraint: Feature | None = None
    walltime: Walltime
    groups: tuple[NodeGroup, ...] = Field((NodeGroup(),), min_length=1)
    modules: tuple[Line, ...] = Field((), description="Environment modules, loaded in this order.")
    setup: tuple[Line, ...] = Field((), description="Shell lines run on each node before Python; each must succeed.")
    container: Container = Container()
    shared: Folder = Field(description="A folder that all nodes see under the same path.")
    local: Folder | None = Field(Path("/tmp"), description="Scratch on each node's own disk.")  # noqa: S108
    interface: str | None = Field(None, description="Interface (ib0) or network (10.0.0.0/16) of the nodes' addresses.")
    python: Line | None = Field(None, description="Python in the container, or on the nodes if there is none.")
    drain_s: int = Field(120, ge=1, le=LONGEST_WARNING_S, description="The drain begins so long before the end.")
    requeue: bool = Field(True, description="SLURM may put the job back into the queue after preemption or a crash.")
    successor: bool = Field(False, description="Submit a successor before the walltime.")
    lead_s: int = Field(900, ge=0, description="The successor is submitted so long before the drain.")
    rejoin: bool = Field(True, description="Submit a job of one node for a node that was lost.")
    nodes_timeout_s: int = Field(600, ge=10, description="All nodes must have joined by then, from the job's start.")
    node_timeout_s: int = Field(5, ge=2, description="A node that Ray hears nothing of for so long counts as dead.")
    copy_weights: bool = Field(False, description="Copy staged weights to `local` before a node joins.")
    extra: tuple[Line, ...] = Field((), description="Further #SBATCH options, each --name or --name=value.")

    @field_validator("walltime")
    @classmethod
    def _some_time(cls, walltime: timedelta) -> timedelta:
        if walltime < timedelta(minutes=1):
            raise ValueError("SLURM counts in minutes; ask for at least one")
        return walltime

    @field_validator("groups")
    @classmethod
    def _names_are_unique(cls, groups: tuple[NodeGroup, ...]) -> tuple[NodeGroup, ...]:
        names = [group.name for group in groups]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two groups have the name {name!r}; give each its own")
        return groups

    @field_validator("interface")
    @classmethod
    def _is_interface_or_network(cls, interface: str | None) -> str | None:
        if interface is None or re.fullmatch(r"[A-Za-z0-9_.:@-]{1,15}", interface, re.ASCII):
            return interface
        try:
            return str(ipaddress.ip_network(interface, strict=False))
        except ValueError:
            raise ValueError(f"{interface!r} is neither an interface (ib0) nor a network (10.0.0.0/16)") from None

    @field_validator("extra")
    @classmethod
    def _extra_are_options(cls, extra: tuple[str, ...]) -> tuple[str, ...]:
        for option in extra:
            _check_option(option)
        return extra

    @model_validator(mode="after")
    def _drain_fits(self) -> ClusterConfig:
        if self.drain_s >= self.walltime.total_seconds():
            raise ValueError(
                f"drain_s is {self.drain_s} s, but the whole walltime is {format_walltime(self.walltime)}; "
                f"make drain_s shorter or walltime longer"
            )
        for folder in (self.shared, self.local):
            if folder is not None:
                Bind(folder, folder).check(self.container.kind)
        return self

    @property
    def components(self) -> tuple[NodeGroup, ...]:
        """The groups, each with the partition, constraint and account that count for it."""
        return tuple(
            group.model_copy(
                update={
                    key: getattr(group, key) or getattr(self, key) for key in ("partition", "constraint", "account")
                }
            )
            for group in self.groups
        )


def _check_option(option: str) -> None:
    match = re.fullmatch(r"--([a-z][a-z0-9-]*)(=.*)?", option, re.ASCII)
    if not match:
        raise ValueError(f"{option!r} must be --name or --name=value")
    if match[1] in OWN_OPTIONS:
        instead = OWN_OPTIONS[match[1]]
        raise ValueError(f"--{match[1]} is written by Corral itself" + (f"; set {instead} instead" if instead else ""))
