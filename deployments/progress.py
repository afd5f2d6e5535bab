"""How far a starting model is, read off vLLM's own log lines in every process of the engine.

A replica's constructor cannot be asked before it is done, and most of its time is spent in child processes.
vLLM's logging is therefore configured (vllm_logging.json) with PhaseHandler, which keeps one small file per
model in the folder that $CORRAL_PROGRESS_DIR names. On another file system there is no phase, and nothing breaks.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

DIRECTORY_VARIABLE = "CORRAL_PROGRESS_DIR"
MODEL_VARIABLE = "CORRAL_MODEL"
LOGGING_CONFIG = Path(__file__).with_name("vllm_logging.json")

PHASES = (
    ("Starting to load model", "loading weights"),
    ("Loading weights took", "warming up"),
    ("Dynamo bytecode transform", "compiling"),
    ("Compiling a graph", "compiling"),
    ("Capturing CUDA graph", "capturing CUDA graphs"),
    ("Graph capturing finished", "warming up"),
    ("init engine", "starting the server"),
)
"""Start of a log line, or a part of it -> the phase that it begins."""


def phase_of(line: str) -> str | None:
    """The phase that a log line of vLLM's begins, if any."""
    return next((phase for mark, phase in PHASES if mark in line), None)


class PhaseHandler(logging.Handler):
    """Writes the phase of this process's model, and the first exception it logs; never fails and never waits."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            phase = phase_of(record.getMessage())
            if phase:
                write_phase(phase)
            if record.exc_info and (error := record.exc_info[1]):
                _write_fault(f"{type(error).__name__}: {error}")
        except Exception:
            self.handleError(record)


def write_phase(phase: str) -> None:
    """Replace the phase of $CORRAL_MODEL; does nothing where no folder is set."""
    folder, model = os.environ.get(DIRECTORY_VARIABLE), os.environ.get(MODEL_VARIABLE)
    if not folder or not model:
        return
    temporary = Path(folder) / f".{model}.{os.getpid()}"
    try:
        temporary.write_text(phase)
        temporary.replace(Path(folder) / model)
    except OSError:
        return


def read_phase(model: str) -> str | None:
    """The last phase of a model, or None."""
    folder = os.environ.get(DIRECTORY_VARIABLE)
    if not folder:
        return None
    try:
        return (Path(folder) / model).read_text() or None
    except OSError:
        return None


def forget_fault() -> None:
    """Forget what an earlier replica of $CORRAL_MODEL died of."""
    if file := _fault_file():
        file.unlink(missing_ok=True)


def read_fault() -> str | None:
    """The first exception that an engine process of $CORRAL_MODEL logged since `forget_fault`, or None."""
    try:
        return file.read_text() or None if (file := _fault_file()) else None
    except OSError:
        return None


def _write_fault(text: str) -> None:
    """Keep the first one: those after it only say that something failed."""
    try:
        if file := _fault_file():
            with file.open("x") as fresh:
                fresh.write(text)
    except OSError:
        return


def _fault_file() -> Path | None:
    folder, model = os.environ.get(DIRECTORY_VARIABLE), os.environ.get(MODEL_VARIABLE)
    return Path(folder) / f"{model}.fault" if folder and model else None


def record_log_files() -> None:
    """Note where this process's output goes, so that `corral logs MODEL` finds it among all of Ray's files."""
    folder, model = os.environ.get(DIRECTORY_VARIABLE), os.environ.get(MODEL_VARIABLE)
    if not folder or not model:
        return
    try:
        with (Path(folder) / f"{model}.logs").open("a") as notes:
            notes.writelines(f"{Path(f'/proc/self/fd/{number}').readlink()}\n" for number in (1, 2))
    except OSError:
        return


def log_files(folder: Path, model: str) -> list[Path]:
    """Files on this host that replicas of `model` wrote to, oldest first."""
    return [path for path in noted_log_files(folder, model) if path.is_file()]


def noted_log_files(folder: Path, model: str) -> list[Path]:
    """Files that replicas of `model` wrote to, on whichever node."""
    try:
        lines = (folder / f"{model}.logs").read_text().splitlines()
    except OSError:
        return []
    return list(map(Path, dict.fromkeys(lines)))
