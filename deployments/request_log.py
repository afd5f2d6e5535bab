"""Log lines of requests and of faults as JSON, one file for each process of the service, private and bounded.

A line has ids, names, numbers and times. No text of a client's or a model's is in one: of an error it has the type and
the places in the code, for its message may quote what was sent.
"""

from __future__ import annotations

import json
import logging
import os
import traceback
from contextvars import ContextVar
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, cast

from deployments.principal import CURRENT, Principal

FILE_BYTES, FILES = 16 << 20, 3
FRAMES = 12
LONGEST_MESSAGE = 512
log = logging.getLogger("corral.requests")
NOTES: ContextVar[dict[str, Any] | None] = ContextVar("notes", default=None)
"""What the line about the request at hand is to say beside the rest."""
ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]


def note(**fields: str | int | float | None) -> None:
    """Have the line about the request at hand say this, too."""
    if (notes := NOTES.get()) is not None:
        notes.update(fields)


def tell(event: str, **fields: Any) -> None:
    """One line; those fields that are None are left out."""
    if log.isEnabledFor(logging.INFO):
        log.info(event, extra={"fields": {name: value for name, value in fields.items() if value is not None}})


class JsonLines(logging.Formatter):
    """A record as one line of JSON, with the request at hand."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname.lower()}
        fields = getattr(record, "fields", None)
        if fields is None:
            told |= {"logger": record.name, "message": record.getMessage()[:LONGEST_MESSAGE]}
        else:
            told |= {"event": record.msg}
        told |= about(CURRENT.get())
        if fields:
            told |= fields
        if record.exc_info and record.exc_info[1]:
            told |= fault(record.exc_info[1])
        return json.dumps(told, separators=(",", ":"), default=str)


def about(principal: Principal) -> dict[str, str]:
    """Which request it is, and whose."""
    known = {
        "id": principal.label or principal.request, "uid": principal.request, "key": principal.key,
        "trace": principal.trace[3:35],
    }  # fmt: skip
    return {name: value for name, value in known.items() if value}


def fault(error: BaseException) -> dict[str, Any]:
    """What happened and where, without its words; the innermost places last."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    cause = error.__cause__ or error.__context__
    because = {"because": type(cause).__name__} if cause else {}
    return {"error": type(error).__name__, "at": places, **because}


class PrivateFile(RotatingFileHandler):
    """A bounded file that only its owner reads."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return cast(TextIOWrapper, os.fdopen(descriptor, self.mode, encoding="utf-8"))


def start_log(component: str, folder: Path | None = None) -> None:
    """Have this process's lines written beside Serve's own logs; once for a process.

    component: part of the file's name. folder: in place of Serve's.
    """
    lose_what_does_not_fit()
    logger = logging.getLogger("corral")
    if any(isinstance(handler, PrivateFile) for handler in logger.handlers):
        return
    folder = folder or serve_folder()
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"requests_{component}_{os.getpid()}.log"
    handler = PrivateFile(path, maxBytes=FILE_BYTES, backupCount=FILES - 1)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def lose_what_does_not_fit() -> None:
    """On a full disk a line of a log is lost, and nothing else.

    logging would tell of each on standard error, which Serve makes lines of the same log: without end, until the
    request fails.
    """
    logging.raiseExceptions = False


def serve_folder() -> Path | None:
    """Where Serve's replicas on this node write their logs; None in a process that is no worker of a Ray's."""
    import ray
    from ray.serve._private.logging_utils import get_serve_logs_dir

    return Path(get_serve_logs_dir()) if ray.is_initialized() else None
