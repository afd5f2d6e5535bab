"""Commands on the host that build machines, and what they say when they fail."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence


class MachineError(RuntimeError):
    """Something that a machine was asked to do failed; says where, what, and what it printed."""


def start_ready(name: str, argv: Sequence[str]) -> subprocess.Popen[str]:
    """Start a process that lives until its standard input closes, and wait until it says that it is ready."""
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        said = process.communicate()[1].strip()
        raise MachineError(f"{name} did not start: {' '.join(argv)}: {said}")
    return process


def end(process: subprocess.Popen[str]) -> None:
    """Close its standard input and wait for its end."""
    process.communicate(timeout=30)


def run(argv: Sequence[str], text: str = "") -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise MachineError(f"{' '.join(argv)} ended with {done.returncode}: {(done.stderr + text).strip()}")
    return done.stdout
