"""How SLURM's commands are run: the one door to them, and a clean environment for what they start."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from slurm.errors import SlurmMissing, Unavailable

KEPT = re.compile(
    r"HOME|USER|LOGNAME|SHELL|PATH|LD_LIBRARY_PATH|LANG|LC_\w+|TZ|TERM|KRB5CCNAME|SLURM_CONF|SLURM_CONF_SERVER"
    r"|MODULE\w*|LMOD_\w+|LOADEDMODULES|_LMFILES_|BASH_ENV|BASH_FUNC_(module|ml)\b.*"
)
"""What a job inherits of its submitter: no tokens, no SLURM_* of a job that we may be in, no login node's TMPDIR."""


@dataclass(frozen=True)
class Result:
    """How a command ended; `status` is negative if a signal ended it."""

    status: int
    out: str
    err: str


class Runner(Protocol):
    """Runs SLURM's commands."""

    async def run(self, argv: Sequence[str]) -> Result:
        """Run one to its end. Raises SlurmMissing, and Unavailable if it does not end in time."""


class LocalRunner:
    """Runs them on this machine, without a shell, each for at most `limit_s`."""

    def __init__(self, environ: Mapping[str, str] | None = None, limit_s: float = 60) -> None:
        self._environ = submission_environment(os.environ if environ is None else environ)
        self._limit_s = limit_s

    async def run(self, argv: Sequence[str]) -> Result:
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=null, stdout=pipe, stderr=pipe, env=self._environ
            )
        except (FileNotFoundError, PermissionError):
            raise SlurmMissing(argv[0]) from None
        try:
            async with asyncio.timeout(self._limit_s):
                out, err = await process.communicate()
        except TimeoutError:
            raise Unavailable(f"{argv[0]} did not end within {self._limit_s:g} s") from None
        finally:
            await _end(process)
        return Result(process.returncode or 0, _text(out), _text(err))


def submission_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of `environ` that SLURM's commands, and so jobs, get; times are printed as unix seconds."""
    kept = {name: value for name, value in environ.items() if KEPT.fullmatch(name)}
    return {**kept, "SLURM_TIME_FORMAT": "%s"}


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
