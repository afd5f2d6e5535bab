"""Where keys, usage and certificates of a profile lie, and whether keys are asked for."""

from __future__ import annotations

import getpass
import ipaddress
from pathlib import Path

from app.access.key_store import FIRST_KEY
from app.profile import absolute_folder
from app.settings import Settings
from app.state import state_directory


def keys_file(settings: Settings) -> Path:
    """Absolute: access.file, else SHARED/corral-USER/keys.json where the profile has a cluster, else in the state
    folder.
    """
    if settings.access.file is not None:
        return Path(absolute_folder(str(settings.access.file), Path.cwd()))
    return access_folder(settings) / "keys.json"


def own_key_file(settings: Settings) -> Path:
    """Where the text of the first key lies, if it was made here: where there was none."""
    return keys_file(settings).with_name(FIRST_KEY)


def usage_file(settings: Settings, name: str) -> Path:
    """By this name, and beside it, the usage of a service is kept from one start to the next (usage_copies.py)."""
    return access_folder(settings) / f"{name}-usage.db"


def access_folder(settings: Settings) -> Path:
    """Where Corral keeps what belongs to no single start: on a cluster's shared folder, else in the state folder."""
    if settings.cluster is not None:
        return settings.cluster.shared / f"corral-{getpass.getuser()}"
    return Path(absolute_folder(str(state_directory()), Path.cwd()))


def keys_required(settings: Settings, host: str) -> bool:
    """Whether who asks at this host's address needs a key."""
    if settings.access.keys != "auto":
        return settings.access.keys == "required"
    return not is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address on this host, by its name or number."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
