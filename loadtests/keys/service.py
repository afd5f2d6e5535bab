"""The services that are measured: their profile, of one pocket model, and their keys."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from loadtests.servers import CORRAL

REQUIRED, OFF = "required", "off"
POCKET = ("pocket-1b", "pocket-3b", "pocket-8b", "pocket-70b")


def profile(folder: Path, model: str, keys: str) -> Path:
    """Writes it; everything that the service keeps lies in the folder, too."""
    others: dict[str, None] = {each: None for each in POCKET if each != model}
    content = {
        "extends": "pocket", "models": others, "access": {"keys": keys, "file": str(folder / "keys" / "keys.json")},
        "tribunals": {"default": {"members": [model], "chair": model}, "refine": {"members": [model]}},
        "rag": {"folder": str(folder / "rag")},
    }  # fmt: skip
    path = folder / f"{keys}.yaml"
    path.write_text(json.dumps(content))
    return path


def process_id(state_folder: Path) -> int:
    """Of the one service that has left its state there."""
    (state,) = state_folder.glob("bench-*.json")
    return int(json.loads(state.read_text())["pid"])


def made_key(profile: Path, name: str, *options: str) -> str:
    """The text of a new key; `options` as `corral keys create` takes them."""
    made = subprocess.run(
        [str(CORRAL), "keys", "create", name, "--profile", str(profile), "--json", *options],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return str(json.loads(made.stdout)["key"])
