"""`corral slurm timeline`: the table, the picture and the costs of every start of a job."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from app.allocation.records import ServiceJob
from app.launch import NotRunningError
from app.settings import SettingsError
from app.show import aligned, print_json
from slurm.timeline import Start, parse_timeline, starts, table, to_json
from slurm.timeline_costs import cost_rows
from slurm.timeline_picture import svg as draw
from slurm.timeline_picture import text_picture


def show_timeline(job: ServiceJob, *, as_json: bool, svg: Path | None) -> None:
    """Print all starts; with `svg` the last one's picture is written there. Raises NotRunningError, SettingsError."""
    found = read_starts(job)
    if svg is not None:
        _write(svg, draw(found[-1], f"{job.service.path.name}: {job.path.name}"))
    if as_json:
        print_json(
            {"name": job.service.path.name, "folder": str(job.path), "starts": [to_json(each) for each in found]}
        )
        return
    for start in found:
        sys.stdout.write(_told(start))


def read_starts(job: ServiceJob) -> list[Start]:
    """Every start of the job that its timeline tells of. Raises NotRunningError if there is none yet."""
    try:
        found = starts(parse_timeline(job.timeline.read_text(errors="replace")))
    except OSError:
        found = []
    if not found:
        raise NotRunningError(
            f"{job.service.path.name!r} has not started yet; `corral slurm status` shows why it waits"
        )
    return found


def _told(start: Start) -> str:
    heading = f"Restart {start.restarts}\n" if start.restarts else ""
    picture = "\n".join(text_picture(start, shutil.get_terminal_size((100, 24)).columns))
    return f"{heading}{aligned(table(start))}\n{picture}\n\n{aligned(cost_rows(start.costs()))}"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--svg: {path} cannot be written: {error.strerror}") from None
