"""Debian's packages that the test cluster runs, installed where this is a Debian and we are root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.slurm.machines import PATH

CLUSTER = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "ip": "iproute2",
    "nsenter": "util-linux",
}
"""Commands, and the packages that have them."""
CONTAINERS = {"ch-run": "charliecloud-runtime", "mmdebstrap": "mmdebstrap"}
POLICY = Path("/usr/sbin/policy-rc.d")
"""Asked by package scripts whether they may start a service (Debian's invoke-rc.d)."""


def why_not(commands: Mapping[str, str] = CLUSTER) -> str:
    """Install the packages of what is missing; returns nothing, or why these commands cannot be had."""
    packages = missing(commands)
    if not packages:
        return ""
    names = " ".join(packages)
    if os.geteuid() != 0:
        return f"only root can install what is missing: apt-get install {names}"
    if shutil.which("apt-get") is None:
        return f"this is no Debian, and these of its packages are missing: {names}"
    return install(packages) or (f"no such commands after installing {names}" if missing(commands) else "")


def missing(commands: Mapping[str, str]) -> list[str]:
    return sorted({package for command, package in commands.items() if shutil.which(command, path=PATH) is None})


def install(packages: list[str]) -> str:
    """Returns nothing, or what apt-get said last."""
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]
    with no_services():
        for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(
                [*apt, *words], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                return f"apt-get {' '.join(words)} failed: {' '.join(done.stdout.splitlines()[-3:])}"
    return ""


@contextmanager
def no_services() -> Iterator[None]:
    """While installed, the packages start no daemon on the host."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
