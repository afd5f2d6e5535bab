"""Having a job submitted from inside one: the batch shell does it, since it is outside of any container.

It looks into the job folder's `submit` for files NAME whose line is a job folder, runs sbatch on that folder's job.sh
and leaves the id, or what sbatch said, as NAME.id or NAME.error. NAME.cancel has it cancel that job; joiners it cancels
when its own job ends.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from app.allocation.agent import WATCH_S, is_there
from app.allocation.records import ServiceJob

PATIENCE_S = 120


class NotSubmitted(Exception):
    """What sbatch said, or that nobody did it."""


async def submitted(errands: ServiceJob, job: ServiceJob, patience_s: float = PATIENCE_S) -> int:
    """Have the batch shell of `errands` submit `job`; returns the id. Raises NotSubmitted."""
    order = errands.submit / job.path.name
    try:
        temporary = order.with_name(f".{order.name}")
        temporary.write_text(f"{job.path}\n")
        temporary.replace(order)
        for _ in range(int(patience_s / WATCH_S)):
            if (job_id := _answer(order)) is not None:
                return job_id
            await asyncio.sleep(WATCH_S)
        cancelled(errands, job)  # so that a shell that was only slow does not submit it after all
    except (OSError, ValueError) as error:
        raise NotSubmitted(str(error)) from None
    raise NotSubmitted(f"nobody submitted it within {patience_s:g} s")


def _answer(order: Path) -> int | None:
    """The id, once there is one. Raises NotSubmitted with what sbatch said, OSError, ValueError."""
    told, refused = order.with_name(f"{order.name}.id"), order.with_name(f"{order.name}.error")
    if is_there(told) and (text := told.read_text().strip()):
        return int(text.split(";")[0])
    if is_there(refused):
        raise NotSubmitted(" ".join(refused.read_text().split()) or "sbatch failed and said nothing")
    return None


def cancelled(errands: ServiceJob, job: ServiceJob) -> None:
    """Have the batch shell cancel a job that it submitted."""
    (errands.submit / f"{job.path.name}.cancel").touch()
