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
    serve = state.ray_logs / "serve"
    if model is None:
        own = [path for path in sorted(serve.glob("requests_*.log")) if not path.name.startswith("requests_model-")]
        return sorted(state.logs.glob("*.log")) + sorted((Path(state.run_dir) / "edge").glob("*.log")) + own
    run_dir = Path(state.run_dir)
    known = _models(run_dir)
    if model not in known:
        raise NotRunningError(f"{name!r} has no model {model!r}; it has {', '.join(known) or 'none yet'}")
    kinds = [f"{kind}_model-{model}{end}.log" for kind in ("replica", "requests") for end in ("_*", ":*")]
    own = [path for kind in kinds for path in sorted(serve.glob(kind))]  # those of later generations have a colon
    return own + log_files(run_dir / "progress", model)


def all_files(name: str) -> list[Path]:
    """Those of the service and of all its models: where a request may be told of. Raises NotRunningError."""
    state = read_state(name)
    models = _models(Path(state.run_dir)) if state else []
    return [path for model in (None, *models) for path in files(name, model)]


def _models(run_dir: Path) -> list[str]:
    try:
        return list(Settings.model_validate_json((run_dir / "settings.json").read_text()).models)
    except OSError:
        return []


def read(
    paths: list[Path], lines: int, follow: bool, later: Callable[[], list[Path]] = list, about: str = ""
) -> Iterator[tuple[Path, str]]:
    """The last `lines` of each file; with `follow` also every later line, until interrupted. about: they have this.

    later: the files that are there by then; of new ones every line is read.
    """
    opened: dict[Path, TextIOWrapper] = {}
    try:
        for path in paths:
            opened[path] = path.open(errors="replace")
            told = (line for line in iter(opened[path].readline, "") if about in line)
            for line in deque(told, maxlen=lines):
                yield path, line.rstrip("\n")
        while follow:
            for path in later():
                if path not in opened:
                    opened[path] = path.open(errors="replace")
            yield from ((path, line) for path, line in _new_lines(opened) if about in line)
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
