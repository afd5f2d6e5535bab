"""Everything that can go wrong at SLURM's door.

SlurmError
 +- SlurmMissing    SLURM's commands are not on this machine
 +- Refused         SLURM says no; `field` names the part of ClusterConfig that it is about, if that can be told
 +- NoSuchJob       SLURM does not know that job, or has forgotten it
 +- Unavailable     the controller does not answer
 |   +- Unsure      a submission was cut off: the job may exist all the same
 +- NotInJob        the environment is not that of a SLURM job
"""

from __future__ import annotations


class SlurmError(Exception):
    """Base of all. The text is one line or SLURM's own lines."""

    def __init__(self, message: str, *args: object) -> None:
        super().__init__(message, *args)
        self.message = message

    def __str__(self) -> str:
        return self.message


class SlurmMissing(SlurmError):
    def __init__(self, command: str) -> None:
        super().__init__(
            f"{command} is not on PATH: run this on a login node of the cluster, or load SLURM's module first"
        )
        self.command = command
        self.args = (command,)


class Refused(SlurmError):
    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message, field)
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class NoSuchJob(SlurmError):
    def __init__(self, job_id: int) -> None:
        super().__init__(f"SLURM knows no job {job_id}, or it ended so long ago that it has forgotten it")
        self.job_id = job_id
        self.args = (job_id,)


class Unavailable(SlurmError):
    pass


class Unsure(Unavailable):
    pass


class NotInJob(SlurmError):
    pass
