"""The parts of the README that are made from the code: the tree and the help of every command.

`python -m tests.docs.readme` writes them anew; test_readme.py fails where they are not what the code says.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from typer import Typer

from app.access.cli import keys
from app.bench.cli import bench_commands
from app.cli import app
from app.evaluation.cli import eval_commands
from app.retrieval.cli import collections
from app.submission.cli import slurm

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FOLDERS = ("app", "deployments", "slurm", "rag", "loadtests", "tests")


def generated() -> dict[str, str]:
    """Name of a part -> its text."""
    return {
        "tree": tree(), "commands": commands(app, "corral"), "slurm-commands": commands(slurm, "corral slurm"),
        "eval-commands": commands(eval_commands, "corral eval"),
        "bench-commands": commands(bench_commands, "corral bench"),
        "collections-commands": commands(collections, "corral collections"),
        "keys-commands": commands(keys, "corral keys"),
    }  # fmt: skip


def with_parts(text: str) -> str:
    """The README with every part as the code says."""
    for name, part in generated().items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        halves = pattern.split(text)
        if len(halves) == 4:
            text = f"{halves[0]}{halves[1]}{part}{halves[2]}{halves[3]}"
        else:
            raise ValueError(f"the README needs <!-- {name} --> and <!-- /{name} --> once")
    return text


def tree() -> str:
    """Every tracked source file with the first line of what it says of itself."""
    lines = []
    for folder in FOLDERS:
        lines.append(f"{folder}/")
        for path in _files(folder):
            inside = path.relative_to(ROOT / folder).as_posix()
            lines.append(f"  {inside:36} {_summary(path)}".rstrip())
    return "```\n" + "\n".join(lines) + "\n```\n"


def _files(folder: str) -> Iterator[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    for name in sorted(listed):
        path = ROOT / name
        if path.suffix in {".py", ".j2", ".yaml"} and path.exists() and path.name != "__init__.py":
            yield path


def _summary(path: Path) -> str:
    if path.suffix == ".py":
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        return docstring.split("\n")[0]
    first = path.read_text().split("\n")[0]
    return first.strip("{}# -")


def commands(group: Typer, prefix: str) -> str:
    """A table of a group's commands and the first line of their help."""
    rows = ["| command | what it does |", "|---|---|"]
    whole = group.registered_callback and group.registered_callback.callback
    if group.info.invoke_without_command is True and whole:
        rows.append(f"| `{prefix}` | {(whole.__doc__ or '').split(chr(10))[0]} |")
    for command in group.registered_commands:
        function = command.callback
        if function is None:
            continue
        name = command.name or function.__name__.replace("_", "-")
        rows.append(f"| `{prefix} {name}` | {(function.__doc__ or '').split(chr(10))[0]} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    README.write_text(with_parts(README.read_text()))
