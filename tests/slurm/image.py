"""An image for containers: a small Debian in a folder, unpacked from the packages of apt's own mirror.

There is no SLURM in it and no Corral: Corral is bound from the host, together with its Python.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.slurm import packages
from tests.slurm.machines import REPOSITORY

# What shells need, and what Python, Ray and vLLM load (ldd) or call: vLLM counts the cores with lscpu.
PACKAGES = (
    *("base-files", "bash", "coreutils", "dash", "debianutils", "findutils", "grep", "iproute2", "libc-bin", "procps"),
    *("sed", "util-linux"),
    *("libbz2-1.0", "libcrypt1", "libelf1", "libffi8", "libgcc-s1", "libgomp1", "liblzma5", "libncursesw6"),
    *("libnuma1", "libreadline8", "libsqlite3-0", "libssl3", "libstdc++6", "libuuid1", "zlib1g"),
)
_USR = Path("/usr")
_HOSTS_PYTHON = (REPOSITORY, Path(sys.prefix), Path(sys.base_prefix))
PYTHON = tuple(folder for folder in dict.fromkeys(_HOSTS_PYTHON) if folder != _USR)
"""Folders to bind, so that this very Python with its packages and Corral runs in the image."""
MARK = "VARIANT_ID=corral-tests"
"""A line in the image's /etc/os-release, and in no other."""

_MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"
_PATIENCE_S = 180
_SOURCE = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
_AS_ANYBODY = ["setpriv", "--reuid=61001", "--regid=61001", "--clear-groups", "unshare", "--user", "--mount", "true"]


class NoImage(RuntimeError):
    """There can be no image now; says why."""


def why_not() -> str:
    """Install what is needed; returns nothing, or why there can be no image, or nobody who runs anything in it."""
    if reason := packages.why_not(packages.CONTAINERS):
        return reason
    done = subprocess.run(_AS_ANYBODY, cwd="/", capture_output=True, text=True, check=False)
    return f"this host lets no ordinary user make a namespace: {done.stderr.strip()}" if done.returncode else ""


def make_image(folder: Path, mount_points: Sequence[Path] = ()) -> Path:
    """Unpack a Debian of the host's release into `folder`, which must not exist. Raises NoImage, and leaves nothing.

    mount_points: folders that the image needs because something will be bound there.
    """
    if reason := why_not():
        raise NoImage(reason)
    try:
        _unpack(folder)
    except NoImage:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _finish(folder / "etc")
    for path in mount_points:
        _add_folder(folder, path)
    return folder


def _unpack(folder: Path) -> None:
    # Only unpacked: to run the packages' scripts as well would take four times as long, for nothing that is used here.
    # With the host's /usr bound over it the image would be the host again: then it gets a Python of its own.
    wanted = ",".join((*PACKAGES, *(["python3"] if _USR in _HOSTS_PYTHON else [])))
    options = ["--mode=root", "--variant=extract", f"--hook-dir={_MERGED}", f"--include={wanted}"]
    options += [f"--aptopt={line}" for line in _said("apt-config", "dump", "Acquire").splitlines()]
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    _said("timeout", str(_PATIENCE_S), "mmdebstrap", *options, release, str(folder), *_sources())


def _sources() -> list[str]:
    """Debian's mirrors as apt uses them, without what else it may be set up for."""
    look = ["apt-get", "indextargets", f"--format={_SOURCE}", "Identifier: Packages", "Origin: Debian"]
    sources = _said(*look)
    if not sources:  # where somebody has removed the lists
        _said("apt-get", "-q", "update")
        sources = _said(*look)
    if not sources:
        raise NoImage("apt knows no mirror of Debian")
    return sources.splitlines()


def _finish(etc: Path) -> None:
    """What the packages' scripts would do, and the files over which ch-run binds the host's."""
    with (etc / "os-release").resolve().open("a") as file:
        file.write(f"{MARK}\n")
    shutil.copy(etc.parent / "usr/share/libc-bin/nsswitch.conf", etc)
    for name in ("passwd", "group", "hosts", "resolv.conf", "machine-id"):
        (etc / name).touch()


def _add_folder(image: Path, path: Path) -> None:
    inside = image / path.relative_to("/")
    inside.mkdir(parents=True, exist_ok=True)
    for folder in (inside, *inside.parents):
        if folder.is_relative_to(image):
            folder.chmod(folder.stat().st_mode | 0o555)  # /root, too, for users who are not root


def _said(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines()
        cause = next((line for line in lines if line.startswith("E:")), "; ".join(lines[-3:]))
        raise NoImage(f"{' '.join(argv[:3])} ended with {done.returncode}: {cause}")
    return done.stdout
