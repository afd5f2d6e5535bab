"""Folders bound into a container, and the characters that its runtime could misread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def plain(text: str) -> str:
    """The same text, if it has no line breaks and no other control characters. Raises ValueError."""
    if any(not (char.isprintable() or char == " ") for char in text):
        raise ValueError(f"{text!r} has a line break or another character that cannot be printed; leave it out")
    return text


def plain_folder(folder: Path) -> Path:
    """The same folder, if it is absolute and SLURM reads its name as it is. Raises ValueError."""
    text = plain(str(folder))
    if not folder.is_absolute():
        raise ValueError(f"{text!r} is not absolute; write the whole path, from / on")
    if "\\" in text:
        raise ValueError(f"{text!r} has a backslash, which SLURM does not take in a path; use another folder")
    return folder


@dataclass(frozen=True)
class Bind:
    """A folder of the host, and where it is seen inside."""

    host: Path
    inside: Path
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> Bind:
        """host[:inside[:ro]] -> Bind. Raises ValueError."""
        host, _, rest = text.partition(":")
        inside, _, mode = rest.partition(":")
        if mode not in ("", "ro") or text.endswith(":"):
            raise ValueError(f"{text!r} must be host[:inside[:ro]]")
        return cls(plain_folder(Path(host)), plain_folder(Path(inside or host)), mode == "ro")

    def check(self, kind: str) -> None:
        """Raise ValueError if the runtime `kind` cannot bind this."""
        bad = {"none": "", "apptainer": ",:", "pyxis": ",: ", "charliecloud": ":"}[kind]
        for path in (self.host, self.inside):
            if found := set(bad) & set(str(path)):
                raise ValueError(f"{kind} cannot bind {str(path)!r}: {sorted(found)[0]!r} separates its arguments")
        if kind == "charliecloud" and self.read_only:
            raise ValueError(f"charliecloud cannot bind {self.host} read-only; drop ':ro'")
