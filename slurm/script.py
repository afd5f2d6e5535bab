"""JobSpec -> job script: a pure render() over job.sh.j2.

The script is for people to read. Its directives are quoted as sbatch reads them (seen on SLURM 22.05: double
quotes, and a backslash before a quote or a backslash), everything else as bash does.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from jinja2 import Environment, StrictUndefined, Template

from slurm.binds import Bind, plain, plain_folder
from slurm.config import MIB, ClusterConfig, NodeGroup
from slurm.container import OF_THE_HOST, Wrapped, wrap
from slurm.folder import JobFolder
from slurm.walltime import format_walltime

SECRET = re.compile(r"(^|_)(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.I)
BARE = re.compile(r"[A-Za-z0-9_@%+=:,./*|&\[\]()-]+", re.ASCII)
HEREDOC_END = "END_OF_SETUP"
T = TypeVar("T")


@dataclass(frozen=True)
class JobSpec:
    """One job. Raises ValueError for what would not arrive as it is.

    python:     the interpreter on the nodes, or in the container.
    module:     run on every node as `python -P -m MODULE FOLDER NODE ROLE GROUP`; ROLE is head or worker.
    env:        exported to every node. Secrets do not belong here: name a file of mode 0600 instead.
    writable:   folders, besides the shared and the local one, that a container sees: caches.
    read_only:  folders that a container only reads: weights. (Charliecloud cannot protect them.)
    stop_s:     how long workers have to end by themselves once the head has ended.
    """

    config: ClusterConfig
    name: str
    folder: Path
    python: str
    module: str = "slurm.node"
    comment: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    writable: tuple[Path, ...] = ()
    read_only: tuple[Path, ...] = ()
    stop_s: int = 15

    def __post_init__(self) -> None:
        for key in ("name", "python", "comment"):
            _check(key, getattr(self, key), plain)
        for path in (self.folder, *self.writable, *self.read_only):
            _check("folder", path, plain_folder)
        if not self.name or not self.python:
            raise ValueError("name and python must not be empty")
        if not re.fullmatch(r"\w+(\.\w+)*", self.module, re.ASCII):
            raise ValueError(f"module: {self.module!r} is not a module's dotted name")
        if HEREDOC_END in self.config.setup:
            raise ValueError(f"setup: a line that is just {HEREDOC_END!r} would end the setup; leave it out")
        for name, value in self.env.items():
            _check_variable(name, value)
        for bind in self.binds:
            bind.check(self.config.container.kind)

    @property
    def binds(self) -> tuple[Bind, ...]:
        """What the container sees of the host, in order."""
        config = self.config
        folders = (config.shared, *([config.local] if config.local else []), *self.writable)
        if not self.folder.is_relative_to(config.shared):
            folders = (*folders, self.folder)
        protect = config.container.kind != "charliecloud"
        reading = (Bind(path, path, protect) for path in self.read_only if protect or not _within(path, folders))
        return tuple(dict.fromkeys((*(Bind(path, path) for path in folders), *reading)))


def render(spec: JobSpec) -> str:
    """The job script."""
    wrapped, groups = _wrapped(spec), spec.config.components
    return _template().render(
        spec=spec,
        config=spec.config,
        components=[(group, _directives(spec, group, first=group is groups[0])) for group in groups],
        srun_flags=wrapped.srun_flags,
        command=wrapped.argv,
        exports=_exports(spec, wrapped),
        hidden=" ".join(OF_THE_HOST[1:]) if spec.config.container.kind != "none" else "",
        end=HEREDOC_END,
    )


@cache
def _template() -> Template:
    environment = Environment(  # noqa: S701 (a shell script, not HTML)
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["sh"] = shell_quote
    return environment.from_string(files("slurm").joinpath("job.sh.j2").read_text(encoding="utf-8"))


def _wrapped(spec: JobSpec) -> Wrapped:
    argv = (spec.python, "-P", "-m", spec.module, str(spec.folder))
    gpus = any(group.gpus for group in spec.config.groups)
    return wrap(argv, spec.config.container, spec.binds, spec.env, workdir=spec.folder, gpus=gpus)


def _exports(spec: JobSpec, wrapped: Wrapped) -> dict[str, str]:
    local = {"TMPDIR": str(spec.config.local)} if spec.config.local else {}
    return {**local, **spec.env, **wrapped.environment}


def _directives(spec: JobSpec, group: NodeGroup, *, first: bool) -> list[str]:
    """The options of one component; what is about the job as a whole stands with the first."""
    config = spec.config
    options = _of_job(spec) if first else []
    options += [_option(name, getattr(group, name)) for name in ("account", "partition")]
    options += [_option(name, getattr(config, name)) for name in ("qos", "reservation")]
    options += [
        _option("constraint", group.constraint),
        _option("time", format_walltime(config.walltime)),
        _option("nodes", str(group.nodes)),
        "--ntasks-per-node=1",
        _option("cpus-per-task", group.cpus and str(group.cpus)),
        _option("mem", group.memory and f"{-(-group.memory // MIB)}M"),
        _option("gres", group.gpus and f"gpu:{group.gpu_type + ':' if group.gpu_type else ''}{group.gpus}"),
        "--no-kill",
        "--requeue" if config.requeue else "--no-requeue",
    ]
    return [option for option in (*options, *map(_extra, config.extra)) if option]


def _of_job(spec: JobSpec) -> list[str]:
    log = str(JobFolder(spec.folder).job_log).replace("%", "%%")  # sbatch expands %j and the like
    return [
        _option("job-name", spec.name),
        _option("comment", spec.comment or None),
        _option("output", log),
        "--open-mode=append",
        f"--signal=B:USR1@{spec.config.drain_s}",
    ]


def _option(name: str, value: object) -> str:
    return f"--{name}={directive_quote(str(value))}" if value is not None and value != 0 else ""


def _extra(option: str) -> str:
    name, assigned, value = option.partition("=")
    return f"{name}={directive_quote(value)}" if assigned else name


def directive_quote(text: str) -> str:
    """`text` as sbatch reads it in a directive; bare if it has no special characters."""
    if BARE.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def shell_quote(value: object) -> str:
    """`value` as one word of bash."""
    return shlex.quote(str(value))


def _within(path: Path, folders: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _check(field_name: str, value: T, check: Callable[[T], object]) -> None:
    try:
        check(value)
    except ValueError as error:
        raise ValueError(f"{field_name}: {error}") from None


def _check_variable(name: str, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII):
        raise ValueError(f"env: {name!r} is not a variable's name")
    if "\0" in value:
        raise ValueError(f"env: {name} has a NUL, which no variable can hold")
    if SECRET.search(name):
        raise ValueError(f"env: {name} looks like a secret; put it into a file of mode 0600 and name the file")
