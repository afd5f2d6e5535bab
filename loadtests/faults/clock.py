"""A wall clock that is set while a service runs, for that service's processes alone: clock.c, preloaded.

The whole machine's clock is everybody's. What the preloaded code does is what they would see of it: the clock jumps
for all of them at once, clocks that nobody can set go on, and who waits for a moment of the wall clock waits for it as
it is by then. (Debian's libfaketime 0.9.10 cannot do it: with it Python's time.sleep fails once the clock has moved.)
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

SOURCE = Path(__file__).with_name("clock.c")
VARIABLE, PRELOAD = "MOVED_CLOCK", "LD_PRELOAD"
NS = 1_000_000_000


class ClockError(Exception):
    """There is no such clock here; the message says why."""


@dataclass(frozen=True)
class Clock:
    """file: eight bytes, the nanoseconds by which it is ahead."""

    file: Path

    @classmethod
    def made(cls, folder: Path) -> Clock:
        """With its code beside its file. Raises ClockError without a C compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise ClockError("a C compiler, cc, is needed: apt-get install gcc libc6-dev")
        clock = cls(folder / "clock")
        clock.file.write_bytes(bytes(8))
        words = [compiler, "-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-o", str(clock.code)]
        done = subprocess.run([*words, str(SOURCE)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClockError(f"{SOURCE.name} cannot be compiled: {done.stderr.strip()}")
        return clock

    @classmethod
    def of(cls, pid: int) -> Clock:
        """The one that this process was started with. Raises ClockError."""
        told = psutil.Process(pid).environ()
        if VARIABLE not in told:
            raise ClockError("the service was started with the machine's clock, which is everybody's")
        return cls(Path(told[VARIABLE]))

    @property
    def code(self) -> Path:
        """clock.c as it is preloaded."""
        return self.file.with_name("clock.so")

    @property
    def environment(self) -> dict[str, str]:
        """Of what is to go by it; what is preloaded anyway stays."""
        preloaded = filter(None, (str(self.code), os.environ.get(PRELOAD)))
        return {VARIABLE: str(self.file), PRELOAD: ":".join(preloaded)}

    @property
    def ahead_s(self) -> float:
        (ahead,) = struct.unpack("q", self.file.read_bytes())
        return float(ahead / NS)

    def set(self, ahead_s: float) -> None:
        """From now on, for all at once."""
        descriptor = os.open(self.file, os.O_RDWR | os.O_CLOEXEC)
        try:
            with mmap.mmap(descriptor, 8) as shared:
                shared[:] = struct.pack("q", round(ahead_s * NS))
        finally:
            os.close(descriptor)
