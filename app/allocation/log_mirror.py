"""Copies what Ray, Serve and the engines write on a node to the job folder, so that people read it on the login node.

A file is followed from where it was, and from its beginning where it was begun again; what is past the bound is left on
the node.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

RAY = "ray/session_latest/logs"
PATTERNS = (
    "logs/*.log", "edge/*.log", f"{RAY}/serve/*.log", f"{RAY}/worker-*.err", f"{RAY}/worker-*.out",
    f"{RAY}/raylet.err", f"{RAY}/raylet.out", f"{RAY}/gcs_server.out",
)  # fmt: skip
MAX_BYTES = 64 << 20
PIECE = 1 << 20


class LogMirror:
    """From `source`, a node's private folder, to `target`. Never raises for a file that it cannot read."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source, self._target = source, target
        self._copied: dict[Path, tuple[int, int]] = {}
        """File -> where to read on, and how many bytes of it were copied in all."""

    def copy_new(self) -> None:
        """Append what was written since the last call."""
        for pattern in PATTERNS:
            for file in self._source.glob(pattern):
                with contextlib.suppress(OSError):
                    self._append(file)

    def _append(self, file: Path) -> None:
        at, done = self._copied.get(file, (0, 0))
        size = file.stat().st_size
        if size < at:
            at = 0
        if size == at or done >= MAX_BYTES:
            return
        target = self._target / file.name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with file.open("rb") as source, target.open("ab") as copy:
            source.seek(at)
            while done < MAX_BYTES and (piece := source.read(PIECE)):
                copy.write(piece)
                at, done = at + len(piece), done + len(piece)
        self._copied[file] = at, done
