"""The ways to a service inside an allocation: from the login node, and from a laptop through it."""

from __future__ import annotations

import getpass
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.access.mine import VARIABLE
from app.access.place import keys_required, own_key_file
from app.allocation.records import Address, ServiceFolder
from app.settings import Settings

TRUSTED_VARIABLE = "SSL_CERT_FILE"
"""OpenSSL's: what Python's clients trust instead of the authorities."""
COPY = "corral-certificate.pem"
"""Of the certificate, on a laptop."""
NODE = "a node"
"""Services in jobs listen on an address of their node, which is never loopback."""


@dataclass(frozen=True)
class OwnKey:
    """What its owner asks a service with. file: where the first key lies; None where there is none (any more)."""

    file: Path | None

    @property
    def text(self) -> str:
        """For a shell to read the key: it is never printed."""
        return f"$(cat {shlex.quote(str(self.file))})" if self.file else f"${VARIABLE}"

    @property
    def header(self) -> str:
        """For curl."""
        return f'-H "Authorization: Bearer {self.text}"'

    @property
    def export(self) -> str:
        """For Corral's own commands."""
        return f"export {VARIABLE}={self.text if self.file else 'KEY'}"

    def there(self, login: str) -> str:
        """For a shell of a laptop, which reads it through `login`."""
        return f"$({shlex.join(['ssh', login, shlex.join(['cat', str(self.file)])])})" if self.file else self.text

    @property
    def advice(self) -> str:
        made = "" if self.file else "  (`corral keys create NAME` makes one)"
        return f"{self.export}{made}"


def own_key(folder: ServiceFolder) -> OwnKey | None:
    """The key for a service that was submitted; None where it asks for none, or cannot be told."""
    try:
        settings = Settings.model_validate_json(folder.settings.read_text())
    except (OSError, ValueError):
        return None
    if not keys_required(settings, NODE):
        return None
    file = own_key_file(settings)
    return OwnKey(file if file.is_file() else None)


def key_json(key: OwnKey | None) -> dict[str, str | None]:
    return {"key_file": str(key.file) if key and key.file else None}


@dataclass(frozen=True)
class Ways:
    """How to reach `address`. login: user@host of a machine on the cluster's network; local: a laptop's port.

    key: None where none is asked for. Where the address has a certificate of its own, every command trusts that one.
    """

    address: Address
    login: str
    local: int
    key: OwnKey | None = None

    @property
    def forward(self) -> list[str]:
        """The ssh that brings the address to a laptop's own port."""
        host = f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        return ["ssh", "-N", "-L", f"{self.local}:{host}:{self.address.port}", self.login]

    @property
    def base_url(self) -> str:
        """Of the laptop's end, for OpenAI clients."""
        return f"{self.address.scheme}://127.0.0.1:{self.local}/v1"

    @property
    def curl(self) -> str:
        """A shell's line."""
        line = f"curl -s {self.trust}{shlex.quote(f'{self.address.url}/v1/models')}"
        return f"{line} {self.key.header}" if self.key else line

    @property
    def trust(self) -> str:
        """For curl, with a space behind it; empty where the authorities say whom to trust."""
        return f"--cacert {shlex.quote(self.address.certificate)} " if self.address.certificate else ""

    @property
    def trust_export(self) -> str:
        """For OpenAI's client and for Corral's own commands, in a shell of the cluster."""
        return f"export {TRUSTED_VARIABLE}={shlex.quote(self.address.certificate)}" if self.address.certificate else ""

    @property
    def trust_there(self) -> str:
        """The same in a shell of a laptop, which has the certificate from the cluster first."""
        if not self.address.certificate:
            return ""
        fetch = shlex.join(["ssh", self.login, shlex.join(["cat", self.address.certificate])])
        return f'{fetch} > {COPY} && export {TRUSTED_VARIABLE}="$PWD/{COPY}"'

    def lines(self) -> str:
        openai_key = self.key.there(self.login) if self.key else "none"
        shown = [
            ("From the login node", self.curl),
            ("Corral's commands", self.key.advice if self.key else ""),
            ("and what they trust", self.trust_export),
            ("From a laptop", shlex.join(self.forward)),
            ("and then there", f"export OPENAI_BASE_URL={self.base_url} OPENAI_API_KEY={openai_key}"),
            ("and what it trusts", self.trust_there),
            ("TLS fingerprint", f"{self.address.fingerprint} (SHA-256)" if self.address.fingerprint else ""),
        ]
        return "".join(f"{title:<21}{command}\n" for title, command in shown if command)

    def to_json(self) -> dict[str, Any]:
        """Without the key: who needs it reads key_file."""
        openai_key = {} if self.key else {"OPENAI_API_KEY": "none"}
        return {
            "url": self.address.url,
            "login_node": self.curl,
            "forward": shlex.join(self.forward),
            "environment": {"OPENAI_BASE_URL": self.base_url, **openai_key},
            "certificate": self.address.certificate or None,
            "fingerprint": self.address.fingerprint or None,
            **key_json(self.key),
        }


def ways(address: Address, login: str | None = None, local: int | None = None, key: OwnKey | None = None) -> Ways:
    """The ways through `login` (unset: this machine), to a laptop's port (unset: the address's own)."""
    return Ways(address, login or f"{getpass.getuser()}@{_this_machine()}", local or address.port, key)


def _this_machine() -> str:
    name = socket.getfqdn()
    return socket.gethostname() if name.startswith("localhost") else name
