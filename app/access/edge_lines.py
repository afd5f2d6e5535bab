"""The edge's log lines on their way to the keeper: a named pipe, of which HAProxy writes one end and the keeper reads.

HAProxy writes each line at once, so several may write at a time: those from before a reload, too. What nobody has read
waits in the pipe, whoever dies meanwhile. When it is full HAProxy drops what is new, and counts it as DroppedLogs.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PIPE = "keeper-log.pipe"
LINE_BYTES = 4096
"""Of a line with its end: what Linux writes to a pipe whole or not at all."""
PIPE_BYTES = 1 << 20
"""1,500 to 2,300 lines as they mostly are; the most that Linux gives to who is not root."""
READ_BYTES = 64 << 10
"""In one go, so that who asks for admission does not wait for all that has gathered."""
log = logging.getLogger("corral.keeper")


def open_pipe(path: Path) -> int:
    """The pipe, made if it is missing. For both ends at once: so neither end fails while the other is away."""
    with suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with suppress(OSError, AttributeError):  # of Linux alone, which may give less
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return pipe


@dataclass
class HeldPipe:
    """Open, it keeps what is in it while HAProxy and the keeper start again."""

    path: Path
    _pipe: int | None = field(default=None, init=False)

    def opened(self) -> int:
        if self._pipe is None:
            self._pipe = open_pipe(self.path)
        return self._pipe

    def close(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
        self._pipe = None


@dataclass
class Lines:
    """Cuts pieces into lines. take: what is done with each; where it fails the others are still taken."""

    take: Callable[[bytes], None]
    _begun: bytes = field(default=b"", init=False)

    def feed(self, piece: bytes) -> None:
        """The next bytes. A line that is too long is left out."""
        *whole, begun = (self._begun + piece).split(b"\n")
        self._begun = begun[:LINE_BYTES]
        for line in whole:
            if len(line) < LINE_BYTES:
                self._taken(line)

    def _taken(self, line: bytes) -> None:
        try:
            self.take(line)
        except Exception:
            log.exception("a line of the edge could not be counted")


@dataclass(frozen=True)
class EdgeLines:
    """The keeper's end of an open pipe."""

    pipe: int
    lines: Lines

    def read(self) -> None:
        """What is there, up to READ_BYTES."""
        with suppress(BlockingIOError):
            self.lines.feed(os.read(self.pipe, READ_BYTES))

    def read_rest(self) -> None:
        """All that waits now. An edge that goes on writing does not hold the keeper's end up."""
        for _ in range(PIPE_BYTES // READ_BYTES):
            self.read()
