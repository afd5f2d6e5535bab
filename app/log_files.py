"""Which files hold the log of a service or of one model, and reading them as they grow."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path

from app.launch import NotRunningError
from app.settings import Settings
from app.state import read_state
from deployments.progress import log_files

POLL_S = 0.3


def files(name: str, model: str | None) -> list[Path]:
    """Log files of the service, or of one of its models. Raises NotRunningError."""
    state = read_state(name)
    if state is None:
        raise NotRunningError(f"no service {name!r} runs here; `corral up` starts one")
    if model is None:
        return sorted(state.logs.glob("*.log")) + sorted((Path(state.run_dir) / "edge").glob("*.log"))
    run_dir = Path(state.run_dir)
    known = _models(run_dir)
    if model not in known:
        raise NotRunningError(f"{name!r} has no model {model!r}; it has {', '.join(known) or 'none yet'}")
    return sorted(state.ray_logs.glob(f"serve/replica_model-{model}_*.log")) + log_files(run_dir / "progress", model)


def _models(run_dir: Path) -> list[str]:
    try:
        return list(Settings.model_validate_json((run_dir / "settings.json").read_text()).models)
    except OSError:
        return []


def read(
    paths: list[Path], lines: int, follow: bool, later: Callable[[], list[Path]] = list
) -> Iterator[tuple[Path, str]]:
    """The last `lines` of each file; with `follow` also every later line, until interrupted.

    later: the files that are there by then; of new ones every line is read.
    """
    opened: dict[Path, TextIOWrapper] = {}
    try:
        for path in paths:
            opened[path] = path.open(errors="replace")
            for line in deque(iter(opened[path].readline, ""), maxlen=lines):
                yield path, line.rstrip("\n")
        while follow:
            for path in later():
                if path not in opened:
                    opened[path] = path.open(errors="replace")
            yield from _new_lines(opened)
            time.sleep(POLL_S)
    finally:
        for file in opened.values():
            file.close()


def _new_lines(opened: Mapping[Path, TextIOWrapper]) -> Iterator[tuple[Path, str]]:
    for path, file in opened.items():
        if path.exists() and path.stat().st_size < file.tell():  # it was begun again
            file.seek(0)
        for line in iter(file.readline, ""):
            yield path, line.rstrip("\n")
