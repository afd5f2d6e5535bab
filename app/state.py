"""What a running service leaves for other commands to find: one small JSON file per name, readable by its owner."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from app.private_files import write_private
from app.processes import birth

DIRECTORY_VARIABLE = "CORRAL_STATE_DIR"
MOST_INCIDENTS = 20
LEAST_ROOM = 1 << 20
SAME_START_S = 1.0
"""Moments of one start; earlier versions wrote it as the wall clock's time."""


@dataclass(frozen=True)
class ServiceState:
    """One service.

    created: the birth of its process. phase: starting Ray, deploying, serving, stopping or failed; error says why it
    failed. key_file: what its owner asks it with, if keys are asked for. certificate: the one that was made for an
    https address, which clients have to trust; fingerprint: its SHA-256.
    """

    name: str
    pid: int
    created: str | float
    profile: str
    run_dir: str
    address: str
    phase: str = "starting Ray"
    ray_address: str = ""
    serve_address: str = ""
    key_file: str = ""
    certificate: str = ""
    fingerprint: str = ""
    error: str | None = None
    incidents: tuple[str, ...] = ()
    """What broke and was mended since the start, each with its time; the last ones."""

    @property
    def token_path(self) -> Path:
        return Path(self.run_dir) / "token"

    @property
    def logs(self) -> Path:
        return Path(self.run_dir) / "logs"

    @property
    def ray_logs(self) -> Path:
        return Path(self.run_dir) / "ray" / "session_latest" / "logs"

    def alive(self) -> bool:
        """Whether the process that wrote this still runs (and is not another with its id)."""
        try:
            return self._is_that_of_the_start() and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            return False

    def _is_that_of_the_start(self) -> bool:
        if isinstance(self.created, str):
            return birth(self.pid) == self.created
        return abs(psutil.Process(self.pid).create_time() - self.created) < SAME_START_S

    @property
    def disk_full(self) -> bool:
        """Whether nothing more fits beside the service's logs and tables."""
        try:
            disk = os.statvfs(self.run_dir)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < LEAST_ROOM

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def with_incident(self, what: str, when: datetime) -> ServiceState:
        told = f"{when.isoformat(timespec='seconds')} {what}"
        return replace(self, incidents=(*self.incidents, told)[-MOST_INCIDENTS:])

    def with_phase(self, phase: str, error: str | None = None) -> ServiceState:
        return replace(self, phase=phase, error=error)


def state_directory() -> Path:
    """Where the files lie: $CORRAL_STATE_DIR, else the XDG state folder."""
    if chosen := os.environ.get(DIRECTORY_VARIABLE):
        return Path(chosen)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "corral"


def state_path(name: str) -> Path:
    return state_directory() / f"{name}.json"


def write_state(state: ServiceState) -> None:
    path = state_path(state.name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, json.dumps(state.to_json(), indent=1))


def read_state(name: str) -> ServiceState | None:
    """The last state of that name, or None where there is none (or it is of another version)."""
    try:
        told = json.loads(state_path(name).read_text())
        return ServiceState(**told | {"incidents": tuple(told.get("incidents", ()))})
    except (OSError, ValueError, TypeError):
        return None


def remove_state(name: str) -> None:
    state_path(name).unlink(missing_ok=True)
