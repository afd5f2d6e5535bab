"""The ways to a service inside an allocation: from the login node, and from a laptop through it."""

from __future__ import annotations

import getpass
import shlex
import socket
from dataclasses import dataclass
from typing import Any

from app.allocation.records import Address


@dataclass(frozen=True)
class Ways:
    """How to reach `address`. login: user@host of a machine on the cluster's network; local: a laptop's port."""

    address: Address
    login: str
    local: int

    @property
    def forward(self) -> list[str]:
        """The ssh that brings the address to a laptop's own port."""
        host = f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        return ["ssh", "-N", "-L", f"{self.local}:{host}:{self.address.port}", self.login]

    @property
    def base_url(self) -> str:
        """Of the laptop's end, for OpenAI clients."""
        return f"http://127.0.0.1:{self.local}/v1"

    @property
    def curl(self) -> list[str]:
        return ["curl", "-s", f"{self.address.url}/v1/models"]

    def lines(self) -> str:
        return (
            f"From the login node  {shlex.join(self.curl)}\n"
            f"From a laptop        {shlex.join(self.forward)}\n"
            f"and then there       export OPENAI_BASE_URL={self.base_url} OPENAI_API_KEY=none\n"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "url": self.address.url,
            "login_node": shlex.join(self.curl),
            "forward": shlex.join(self.forward),
            "environment": {"OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": "none"},
        }


def ways(address: Address, login: str | None = None, local: int | None = None) -> Ways:
    """The ways through `login` (unset: this machine), to a laptop's port (unset: the address's own)."""
    return Ways(address, login or f"{getpass.getuser()}@{_this_machine()}", local or address.port)


def _this_machine() -> str:
    name = socket.getfqdn()
    return socket.gethostname() if name.startswith("localhost") else name
