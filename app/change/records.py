"""How a command asks a running service for a change, and what it is told: small files in a folder that only they see.

    order.json   a change that is asked for; of two who ask at once one gets it
    taken.json   the same, while the service is at it
    status.json  how far the last one is, or how it ended

The folder is in the service's run folder, or in its job's on the shared disk. There is no port for it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from app.allocation.records import Record

FOLDER = "change"
ENDED = {"done": "is done", "gone back": "has gone back", "failed": "failed", "refused": "was refused"}
"""Last phase of a change -> how it is told."""


class UnderWayError(Exception):
    """Another change is not done yet."""


@dataclass(frozen=True)
class Order(Record):
    """A change that somebody asks for. settings: the whole new profile; timeout_s: for each model to become ready."""

    id: str
    settings: Mapping[str, Any]
    profile: str
    timeout_s: float
    asked: float


@dataclass(frozen=True)
class ModelProgress:
    """What happens to one model now: waiting, starting, ready, draining, done, going back or failed."""

    how: str
    state: str
    detail: str = ""


@dataclass(frozen=True)
class ChangeStatus(Record):
    """How far a change is; unix seconds.

    phase: waiting, preparing, changing, going back; at the end done, gone back (all is as before), failed (it is not)
    or refused (nothing was done). message: why, at the end. plan: Plan.to_json(). models: id -> ModelProgress.
    """

    id: str
    phase: str
    began: float
    updated: float
    message: str = ""
    profile: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.phase in ENDED

    @property
    def sentence(self) -> str:
        """For people."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.updated))
        because = f": {self.message}" if self.message else ""
        if self.ended:
            return f"the last change ({self.profile}, {stamp}) {ENDED[self.phase]}{because}"
        busy = ", ".join(f"{model} {told['state']}" for model, told in self.models.items() if told["state"] != "done")
        return f"a change ({self.profile}) is under way, {self.phase}{f' ({busy})' if busy else ''}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ChangeFolder:
    """Where orders and answers lie; its owner's alone."""

    path: Path

    @property
    def order_file(self) -> Path:
        return self.path / "order.json"

    @property
    def taken_file(self) -> Path:
        return self.path / "taken.json"

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    def open(self) -> None:
        """Make it, for a service that starts. What was under way in an earlier start has ended with that."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        for file in (self.order_file, self.taken_file):
            file.unlink(missing_ok=True)
        status = self.status()
        if status and not status.ended:
            self.tell(replace(status, phase="failed", message="the service ended in the middle of it"))

    @property
    def is_open(self) -> bool:
        return self.path.is_dir()

    def submit(self, settings: Mapping[str, Any], profile: str, timeout_s: float, clock: float) -> Order:
        """Ask for a change. Raises UnderWayError, OSError."""
        order = Order(secrets.token_hex(8), settings, profile, timeout_s, clock)
        draft = self.path / f".order.{order.id}"
        order.write(draft)
        try:
            os.link(draft, self.order_file)  # fails where there is one
        except FileExistsError:
            raise UnderWayError(self._under_way()) from None
        finally:
            draft.unlink()
        if self.taken_file.exists():
            self.withdraw()
            raise UnderWayError(self._under_way())
        return order

    def withdraw(self) -> bool:
        """Take back what nobody has begun with; False if it is too late."""
        try:
            self.order_file.unlink()
        except FileNotFoundError:
            return False
        return True

    def take(self) -> Order | None:
        """The change that is asked for, if any; nobody can ask for another until `close`."""
        self._refresh()
        try:
            if self.order_file.lstat().st_uid != os.getuid():
                return None
            self.order_file.replace(self.taken_file)
        except OSError:
            return None
        if (order := Order.read(self.taken_file)) is None:
            self.close()
        return order

    def close(self) -> None:
        """The next change may be asked for."""
        with contextlib.suppress(OSError):
            self.taken_file.unlink(missing_ok=True)

    def tell(self, status: ChangeStatus) -> None:
        """A shared folder that fails for a moment is no reason to stop in the middle."""
        with contextlib.suppress(OSError):
            status.write(self.status_file)

    def status(self) -> ChangeStatus | None:
        self._refresh()
        return ChangeStatus.read(self.status_file)

    def _refresh(self) -> None:
        """Have NFS look anew; it may else take half a minute to see what another machine put there."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def _under_way(self) -> str:
        status = self.status()
        what = status.sentence if status and not status.ended else "a change is under way"
        return f"{what}; ask again when it has ended (`corral status` tells)"
