"""The `access` section of a profile: whether keys are asked for, where they lie, and TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from deployments.config import Section


class TlsConfig(Section):
    """Encryption of the address. Both files, in PEM; without them a certificate is made, whose fingerprint is shown."""

    certificate: Path | None = Field(None, description="The certificate, and those between it and its root.")
    key: Path | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> TlsConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both files, or neither for one that is made")
        return self


class AccessConfig(Section):
    """Who may use the address."""

    keys: Literal["auto", "required", "off"] = Field(
        "auto", description="auto: asked for where the address is not this host's loopback."
    )
    file: Path | None = Field(None, description="The keys' file; left out, it lies among Corral's own files.")
    tls: TlsConfig | None = Field(None, description="tls: {} makes a certificate; left out, nothing is encrypted.")
