"""What a fetch tells: how far it is, and what became of each source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app.download import Doing
from app.fit import gib

State = Literal["fetched", "already complete", "local", "left alone"]


@dataclass(frozen=True)
class FetchProgress:
    """`done` of a source's `total` bytes are there and hashed; they become fewer if some were wrong.

    doing: `wait` for another fetch of the same model, `check` bytes on the disk, `download` from the hub.
    """

    source: str
    doing: Doing
    done: int
    total: int


@dataclass(frozen=True)
class Report:
    """What became of one source. `models` are the served ids that use it; `seconds` and bytes are this run's.

    folder: where it lies; None if it was left alone. revision: the commit, of hub models only.
    reason: why it was left alone, or what is wrong with a local folder.
    """

    models: tuple[str, ...]
    source: str
    state: State
    folder: Path | None = None
    revision: str | None = None
    files: int = 0
    bytes: int = 0
    downloaded: int = 0
    seconds: float = 0
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "folder": self.folder and str(self.folder), "seconds": round(self.seconds, 3)}

    def line(self) -> str:
        """For a person."""
        who = f"{', '.join(self.models)}: {self.source}: {self.state}"
        if self.state == "fetched":
            who += f", {self.files} files, {gib(self.bytes)}, {gib(self.downloaded)} of it now in {self.seconds:.0f} s"
        elif self.state == "already complete":
            who += f", {self.files} files, {gib(self.bytes)}"
        place = f", in {self.folder}" if self.folder and self.state != "local" else ""
        return f"{who}{place}{f' ({self.reason})' if self.reason else ''}"
