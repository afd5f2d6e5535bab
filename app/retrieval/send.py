"""Files to a running service, in uploads of bounded size; its reports in one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from app.talk import RefusedError, UnreachableError
from rag.errors import DocumentTooLarge, UnreadableDocument
from rag.ingest_report import IngestProgress
from rag.inputs import Input, Inputs
from rag.passages import Scalar

MOST_BYTES, MOST_FILES = 32 << 20, 200
"""Of one upload; a larger file goes alone."""
TOO_LARGE = 413
SILENCE_S = 3600
"""The service answers when all of an upload is embedded."""
COUNTS = ("added", "replaced", "unchanged", "removed", "failed", "passages", "embedded", "seconds")
Told = dict[str, Any]


def send(
    client: httpx.Client,
    collection: str,
    inputs: Inputs,
    metadata: Mapping[str, Scalar],
    *,
    on_progress: Callable[[IngestProgress], None] = lambda _: None,
) -> Told:
    """An IngestReport's JSON. `client`: of a service, which may be silent for SILENCE_S.

    Raises RefusedError or UnreachableError where no file could go in; what was sent before stays in the collection.
    """
    total = _empty(collection, inputs)
    for batch in _batches(inputs.files):
        _add(total, _upload(client, collection, batch, metadata))
        files = len(total["files"])
        of_files = len(inputs.files) + len(inputs.refused)
        on_progress(IngestProgress(files, of_files, total["passages"], total["embedded"]))
    total["files"].sort(key=lambda file: file["source"])
    return total


def _empty(collection: str, inputs: Inputs) -> Told:
    files = [_failed(each.source, each.reason, each.code) for each in inputs.refused]
    counts: Told = {**dict.fromkeys(COUNTS, 0), "failed": len(files)}
    return {"collection": collection, "version": None, **counts, "files": files, "skipped": dict(inputs.skipped)}


def _add(total: Told, report: Mapping[str, Any]) -> None:
    for count in COUNTS:
        total[count] += report[count]
    if report["version"] is not None:
        total["version"] = report["version"]
    total["files"] += report["files"]
    if warning := report.get("warning"):
        total["warning"] = warning


def _batches(files: Sequence[Input]) -> Iterator[list[Input]]:
    batch: list[Input] = []
    held = 0
    for each in files:
        size = _size(each.path)
        if batch and (held + size > MOST_BYTES or len(batch) == MOST_FILES):
            yield batch
            batch, held = [], 0
        batch.append(each)
        held += size
    if batch:
        yield batch


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # it is told of when it cannot be opened


def _upload(client: httpx.Client, collection: str, batch: Sequence[Input], metadata: Mapping[str, Scalar]) -> Told:
    """One report. Files that cannot be opened here, and one that is too large alone, have failed in it."""
    total = _empty(collection, Inputs())
    try:
        with ExitStack() as opened:
            parts, failed = _opened(batch, opened)
            _add(total, _counted(collection, failed))
            if parts:
                _add(total, _posted(client, collection, parts, metadata))
    except DocumentTooLarge as error:
        if len(batch) == 1:
            return _counted(collection, [_failed(batch[0].source, error.message, error.reason)])
        total = _empty(collection, Inputs())
        for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
            _add(total, _upload(client, collection, half, metadata))
    return total


def _opened(batch: Sequence[Input], opened: ExitStack) -> tuple[list[Any], list[Told]]:
    """Parts of a form, and what cannot be sent."""
    parts, failed = list[Any](), list[Told]()
    for each in batch:
        try:
            if not each.path.is_file():
                raise OSError("it is no file")
            part = opened.enter_context(each.path.open("rb"))
            parts.append(("file", (each.source, part, "application/octet-stream")))
        except OSError as error:
            failed.append(_failed(each.source, f"cannot be read: {error.strerror or error}."))
    return parts, failed


def _counted(collection: str, failed: list[Told]) -> Told:
    """A report of nothing but these."""
    return {**_empty(collection, Inputs()), "failed": len(failed), "files": failed}


def _posted(client: httpx.Client, collection: str, parts: list[Any], metadata: Mapping[str, Scalar]) -> Told:
    data = {"metadata": json.dumps(dict(metadata))} if metadata else {}
    try:
        response = client.post(f"/v1/rag/collections/{quote(collection, safe='')}/documents", data=data, files=parts)
    except httpx.HTTPError as error:
        raise UnreachableError(f"{client.base_url} does not answer: {error or type(error).__name__}") from error
    answer = _answer(response)
    if response.is_success and "files" not in answer:
        raise UnreachableError(f"{client.base_url} answers, but not as a Corral service does; check --url.")
    if response.is_success:
        return answer
    if "report" in answer:  # nothing went in, and it says why for each file
        report: Told = answer["report"]
        return report
    message = answer.get("error", {}).get("message") or f"HTTP {response.status_code}"
    if response.status_code == TOO_LARGE:
        raise DocumentTooLarge(message)
    raise (RefusedError if response.status_code < 500 else UnreachableError)(message)


def _answer(response: httpx.Response) -> Told:
    try:
        answer = response.json()
    except ValueError:
        answer = {}
    return answer if isinstance(answer, dict) else {}


def _failed(source: str, reason: str, code: str = UnreadableDocument.reason) -> Told:
    return {"source": source, "outcome": "failed", "passages": 0, "reason": reason, "code": code}
