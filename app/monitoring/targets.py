"""Targets: what tells Prometheus where a service is now; the service itself keeps it, through every change of address.

In a folder of the service there are targets.json, as Prometheus's file_sd_configs reads it, and authorities.pem, the
certificates that are to be trusted there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.access.tls import EVERYWHERE
from app.private_files import write_private
from app.state import ServiceState, state_directory

JOB = "corral"
"""Prometheus's name of what it scrapes."""


@dataclass(frozen=True)
class Targets:
    """Of one service. folder: where the files lie."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "targets.json"

    @property
    def authorities(self) -> Path:
        return self.folder / "authorities.pem"

    def publish(self, url: str, labels: Mapping[str, str], certificates: Iterable[Path] = ()) -> None:
        """The service answers at `url`. What it is to be trusted by is there before. Raises OSError."""
        if trusted := [text for path in certificates if (text := _text(path))]:
            write_private(self.authorities, "".join(trusted))
        parts = urlsplit(url)
        told = {"targets": [_reachable(url)], "labels": {**labels, "__scheme__": parts.scheme}}
        write_private(self.file, json.dumps([told], indent=1))

    def withdraw(self) -> None:
        """It answers nowhere. Whoever gets its port next must not be sent its key. Raises OSError."""
        write_private(self.file, "[]")


def local_folder(name: str) -> Path:
    """Where `corral monitoring` puts the files of a service."""
    return (state_directory() / "monitoring" / name).absolute()


def follow(state: ServiceState) -> None:
    """Keep the targets of a service of this host, where anybody has asked for them."""
    targets = Targets(local_folder(state.name))
    if not targets.folder.is_dir():
        return
    with suppress(OSError):
        if state.phase == "serving" and state.alive():
            certificates = [Path(state.certificate)] if state.certificate else []
            targets.publish(state.address, {"service": state.name}, certificates)
        else:
            targets.withdraw()


def _reachable(url: str) -> str:
    """HOST:PORT to connect to; a service that listens everywhere does so on loopback, too."""
    parts = urlsplit(url)
    host = "127.0.0.1" if (parts.hostname or "") in EVERYWHERE else parts.hostname
    return f"[{host}]:{parts.port}" if ":" in str(host) else f"{host}:{parts.port}"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
