"""A command, wrapped for the container runtime that the profile names.

Everywhere the image is read-only, the host's network and the job's environment are inside, and the host's HOME is
not. Binds are in order: a read-only folder below a writable one comes after it. Options are those of Apptainer 1.x,
Pyxis 0.12 and later, and Charliecloud 0.31; there a folder that is bound must exist in the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slurm.binds import Bind
from slurm.config import Container

OF_THE_HOST = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")
"""Variables that point at the host's libraries, and so do not belong into a container."""


@dataclass(frozen=True)
class Wrapped:
    """What to add to srun, what srun is to run, and what to export before it."""

    argv: tuple[str, ...]
    srun_flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def wrap(
    argv: Sequence[str],
    container: Container,
    binds: Sequence[Bind] = (),
    env: Mapping[str, str] | None = None,
    *,
    workdir: Path,
    gpus: bool = False,
) -> Wrapped:
    """`argv`, to be run in the container; further arguments may be appended to the result's argv.

    env: what the job exports; it has to win over what the image says.
    """
    binds = (*binds, *container.mounts)
    if container.kind == "apptainer":
        return _apptainer(argv, container, binds, env or {}, workdir, gpus)
    if container.kind == "pyxis":
        return Wrapped(tuple(argv), _pyxis_flags(container, binds, env or {}, workdir))
    if container.kind == "charliecloud":
        return Wrapped(_charliecloud(argv, container, binds, workdir))
    return Wrapped(tuple(argv))


def _apptainer(
    argv: Sequence[str], container: Container, binds: Sequence[Bind], env: Mapping[str, str], workdir: Path, gpus: bool
) -> Wrapped:
    # It sets HOME by itself, and refuses it as a variable.
    home = f"--home={env['HOME']}" if "HOME" in env else "--no-home"
    options = [*(["--nv"] if gpus else []), home, f"--pwd={workdir}"]
    options += [f"--bind={_joined(bind)}" for bind in binds]
    wrapped = ("apptainer", "exec", *options, *container.args, container.image or "", *argv)
    variables = {f"APPTAINERENV_{name}": value for name, value in env.items() if name != "HOME"}
    return Wrapped(wrapped, environment=variables)


def _pyxis_flags(container: Container, binds: Sequence[Bind], env: Mapping[str, str], workdir: Path) -> tuple[str, ...]:
    flags = [f"--container-image={container.image}", "--container-readonly", "--no-container-mount-home"]
    flags += ["--no-container-entrypoint", f"--container-workdir={workdir}"]
    if binds:
        flags.append(f"--container-mounts={','.join(map(_joined, binds))}")
    if env:
        flags.append(f"--container-env={','.join(sorted(env))}")
    return (*flags, *container.args)


def _charliecloud(argv: Sequence[str], container: Container, binds: Sequence[Bind], workdir: Path) -> tuple[str, ...]:
    wanted = [bind for bind in binds if (bind.host, bind.inside) != (_TMP, _TMP)]  # ch-run binds /tmp by itself
    options = [f"--unset-env={name}" for name in OF_THE_HOST]
    options += [f"--bind={bind.host}:{bind.inside}" for bind in wanted]
    return ("ch-run", f"--cd={workdir}", *options, *container.args, container.image or "", "--", *argv)


_TMP = Path("/tmp")  # noqa: S108


def _joined(bind: Bind) -> str:
    return f"{bind.host}:{bind.inside}{':ro' if bind.read_only else ''}"
