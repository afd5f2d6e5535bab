"""Files of a multipart request, put where the documents' service can read them, and removed afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from app.body import content_type
from deployments.errors import BadRequest, ServingError
from deployments.retrieval.service import Upload
from deployments.strict_json import check_values, parse_json
from rag.errors import BadName, OutOfSpace
from rag.passages import Scalar, source_name

MULTIPART = "multipart/form-data"
MOST_FILES = 1000
LEFT_AFTER_S = 86_400
UPLOAD_PATH = re.compile(r"/v1/rag/collections/[^/]+/documents")
"""Where bodies may be as long as files are."""
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}")


@dataclass(frozen=True)
class Received:
    """`refused`: entries of an IngestReport for files whose names cannot be sources."""

    uploads: tuple[Upload, ...]
    refused: tuple[dict[str, Any], ...]


@contextlib.asynccontextmanager
async def received(request: Request, incoming: Path) -> AsyncIterator[Received]:
    """The request's files for the time of the block. Raises BadRequest, WrongContentType, OutOfSpace."""
    content_type(request, MULTIPART)
    async with contextlib.aclosing(_Form(await _form(request))) as form:
        folder = await asyncio.to_thread(_folder, incoming)
        try:
            yield await asyncio.to_thread(_stored, form.data, folder)
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


@dataclass(frozen=True)
class _Form:
    data: FormData

    async def aclose(self) -> None:
        await self.data.close()


async def _form(request: Request) -> FormData:
    try:
        return await request.form(max_files=MOST_FILES, max_fields=16)
    except MultiPartException as error:
        raise BadRequest(f"The body is no form that can be read: {error.message}", "body") from None
    except (ServingError, ClientDisconnect):
        raise
    except OSError as error:
        raise _full(error) from error
    except Exception as error:  # Starlette's own refusal of too many files, for one
        raise BadRequest(f"The body is no form that can be read: {getattr(error, 'detail', error)}", "body") from None


def _folder(incoming: Path) -> Path:
    try:
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(incoming)
        return Path(tempfile.mkdtemp(dir=incoming))
    except OSError as error:
        raise _full(error) from error


def _sweep(incoming: Path) -> None:
    """What a gateway that was killed has left."""
    for left in incoming.iterdir():
        if left.stat().st_mtime < time.time() - LEFT_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)


def _stored(form: FormData, folder: Path) -> Received:
    """Copies every part `file` into the folder. Raises BadRequest if there is none, and for another field."""
    if unknown := [name for name in form if name not in ("file", "metadata")]:
        shown = _sendable(unknown[0][:64])
        raise BadRequest(f"unknown field {shown!r}; valid fields: file, metadata.", shown)
    files = form.getlist("file")
    if not files or not all(isinstance(file, UploadFile) for file in files):
        raise BadRequest("file: at least one file is wanted, as curl -F file=@handbook.pdf sends it.", "file")
    metadata = _metadata(form.get("metadata"))
    uploads, refused = [], []
    for number, file in enumerate(files):
        assert isinstance(file, UploadFile)
        try:
            source = source_name(file.filename or "")
        except BadName as error:
            name = _sendable((file.filename or "")[:256])
            refused.append({"source": name, "outcome": "failed", "passages": 0, "reason": error.message})
            continue
        uploads.append(Upload(str(_copied(file, folder, number, source)), source, metadata))
    return Received(tuple(uploads), tuple(refused))


def _copied(file: UploadFile, folder: Path, number: int, source: str) -> Path:
    suffix = PurePosixPath(source).suffix
    path = folder / f"{number:04}{suffix if _SUFFIX.fullmatch(suffix) else ''}"
    try:
        with path.open("xb") as copy:
            shutil.copyfileobj(file.file, copy, 1 << 20)
    except OSError as error:
        raise _full(error) from error
    return path


def _sendable(name: str) -> str:
    """A charset of the client's own choice may have given halves of surrogate pairs."""
    return name.encode(errors="replace").decode()


def _metadata(text: object) -> Mapping[str, Scalar]:
    """The form's field `metadata`: a JSON object of plain values."""
    if text is None:
        return {}
    try:
        found = parse_json(text.encode()) if isinstance(text, str) else None
        check_values(found)
    except (BadRequest, UnicodeEncodeError):
        found = None
    if not isinstance(found, dict) or len(found) > 64 or not all(isinstance(each, Scalar) for each in found.values()):
        raise BadRequest('metadata: a JSON object of at most 64 plain values is wanted, {"year": 2026}.', "metadata")
    return found


def _full(error: OSError) -> OutOfSpace:
    return OutOfSpace(f"The file could not be put down: {error.strerror or error}.")
