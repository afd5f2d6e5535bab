"""The certificate of a profile's address: a person's own, or one that is made and kept."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path

from app.access.certificate import CERTIFICATE_FILE, Certificate, kept_or_made, load_certificate
from app.access.place import access_folder
from app.profile import absolute_folder
from app.settings import Settings

EVERYWHERE = ("", "*", "0.0.0.0", "::")  # noqa: S104


def tls_folder(settings: Settings, host_name: str) -> Path:
    """Where a host's certificate lies."""
    return access_folder(settings) / "tls" / host_name


def made_certificates(settings: Settings) -> list[Path]:
    """Of all hosts for which one was made here."""
    return sorted(tls_folder(settings, "*").parent.glob(f"*/{CERTIFICATE_FILE}"))


def shown_certificate(settings: Settings) -> Path | None:
    """What this host's address shows, once it was started; None without access.tls."""
    tls = settings.access.tls
    if tls is None:
        return None
    folder = tls_folder(settings, socket.gethostname())
    return (folder / "own" if tls.certificate else folder) / CERTIFICATE_FILE


def certificate_for(settings: Settings, host: str) -> Certificate | None:
    """None if the profile has no access.tls. Each host keeps its own. Raises CertificateError."""
    tls = settings.access.tls
    if tls is None:
        return None
    name = socket.gethostname()
    folder = tls_folder(settings, name)
    if tls.certificate and tls.key:
        here = Path.cwd()
        own = [Path(absolute_folder(str(path), here)) for path in (tls.certificate, tls.key)]
        return load_certificate(own[0], own[1], folder / "own")
    names = dict.fromkeys([name, socket.getfqdn()])
    return kept_or_made(folder, list(names), [] if host in EVERYWHERE else [host], datetime.now(UTC))
