"""A command, wrapped for each container runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slurm.binds import Bind
from slurm.config import Container
from slurm.container import Wrapped, wrap

SHARED = Bind(Path("/shared"), Path("/shared"))
WEIGHTS = Bind(Path("/shared/weights"), Path("/shared/weights"), read_only=True)
TMP = Bind(Path("/tmp"), Path("/tmp"))
ARGV = ("python", "-m", "slurm.node")


def wrapped(kind: str, binds: tuple[Bind, ...] = (SHARED, WEIGHTS, TMP), **settings: Any) -> Wrapped:
    container = Container.model_validate({"kind": kind, "image": "/img", **settings})
    return wrap(ARGV, container, binds, {"B": "x y", "A": "1"}, workdir=Path("/shared/job"), gpus=True)


def test_without_a_container_nothing_changes() -> None:
    assert wrap(ARGV, Container(), (SHARED,), {"A": "1"}, workdir=Path("/")) == Wrapped(ARGV)


def test_apptainer() -> None:
    result = wrapped("apptainer", (SHARED, WEIGHTS), args=("--ipc",))
    assert result.argv == (
        "apptainer", "exec", "--nv", "--no-home", "--pwd=/shared/job", "--bind=/shared:/shared",
        "--bind=/shared/weights:/shared/weights:ro", "--ipc", "/img", *ARGV,
    )  # fmt: skip
    assert result.environment == {"APPTAINERENV_A": "1", "APPTAINERENV_B": "x y"}
    assert not any(word.startswith("--writable") for word in result.argv)


def test_apptainer_asks_for_gpus_only_where_there_are_some() -> None:
    container = Container(kind="apptainer", image="/img")
    assert "--nv" not in wrap(ARGV, container, workdir=Path("/")).argv


def test_pyxis_is_told_by_srun() -> None:
    result = wrapped("pyxis", (SHARED, WEIGHTS), args=("--container-remap-root",))
    assert result.argv == ARGV
    assert result.srun_flags == (
        "--container-image=/img", "--container-readonly", "--no-container-mount-home", "--no-container-entrypoint",
        "--container-workdir=/shared/job", "--container-mounts=/shared:/shared,/shared/weights:/shared/weights:ro",
        "--container-env=A,B", "--container-remap-root",
    )  # fmt: skip


def test_charliecloud() -> None:
    result = wrapped("charliecloud", (SHARED, TMP), args=("--gid=7",))
    assert result.argv == (
        "ch-run", "--cd=/shared/job", "--unset-env=LD_LIBRARY_PATH", "--unset-env=PYTHONHOME",
        "--unset-env=PYTHONPATH", "--bind=/shared:/shared", "--gid=7", "/img", "--", *ARGV,
    )  # fmt: skip
    assert not {"-w", "--write"} & set(result.argv)


def test_the_profiles_binds_come_last() -> None:
    container = Container(kind="apptainer", image="/img", binds=("/a:/b:ro",))
    result = wrap(ARGV, container, (SHARED,), workdir=Path("/"))
    assert [word for word in result.argv if word.startswith("--bind")] == ["--bind=/shared:/shared", "--bind=/a:/b:ro"]


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("/a", Bind(Path("/a"), Path("/a"))),
        ("/a:/b", Bind(Path("/a"), Path("/b"))),
        ("/a:/b:ro", Bind(Path("/a"), Path("/b"), True)),
    ],
)
def test_binds_are_read(text: str, bind: Bind) -> None:
    assert Bind.parse(text) == bind


@pytest.mark.parametrize("text", ["", "a", "/a:b", "/a:", "/a:/b:rw", "/a:/b:ro:", "/a:/b:ro:x", "/a\n"])
def test_other_binds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be host|not absolute|line break"):
        Bind.parse(text)
