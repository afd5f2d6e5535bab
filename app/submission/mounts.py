"""Which kind of file system a folder is on."""

from __future__ import annotations

import re
from pathlib import Path

OF_ONE_MACHINE = frozenset({"tmpfs", "ramfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "overlay", "squashfs"})
"""What a compute node usually does not see. (A machine may export its own disk: then it is right after all.)"""


def file_system(folder: Path, mounts: str | None = None) -> str:
    """The type of the file system that holds `folder`, as Linux names it; "" if that cannot be told."""
    real, best = folder.resolve(), (-1, "")
    for line in (_mounts() if mounts is None else mounts).splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(_unescaped(fields[1]))
        if real.is_relative_to(point) and len(point.parts) >= best[0]:  # a later mount covers an earlier one
            best = len(point.parts), fields[2]
    return best[1]


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text(errors="replace")
    except OSError:
        return ""


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
