"""Weights before the queue: models of a profile, from the Hugging Face hub into a folder that the jobs share.

FOLDER/weights/OWNER--NAME/ holds a model and, written last, its manifest (slurm/staging.py). Until then `.parts` in
there has the commit that was begun with, and the bytes of files that are not whole, under the names of their hashes:
whoever comes next goes on from those. huggingface_hub lists; it downloads into files that it drops when it ends
(version 2.4), so the bytes are fetched here.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import httpx

from app.fit import gib
from app.profile import absolute
from app.settings import POCKET
from deployments.config import ModelSpec
from deployments.pocket import CHECKPOINTS
from slurm.staging import (
    MANIFEST,
    Manifest,
    Meter,
    StagedFile,
    StagingError,
    disk_errors,
    each,
    locked,
    need_room,
    plain_path,
    read_manifest,
    write_manifest,
)

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
PARTS = ".parts"
READ = 4 << 20
TRIES = 6
"""Requests in a row that bring nothing before the hub counts as gone; the waits between them add up to a minute."""
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT_S = 300
WEIGHTS = (".safetensors", ".bin", ".pt")
"""Formats that vLLM reads, the preferred one first; of a model only one is fetched."""
USELESS = (
    *WEIGHTS, ".pth", ".gguf", ".ggml", ".onnx", ".onnx_data", ".h5", ".msgpack", ".ot", ".tflite", ".npz", ".mlmodel",
    ".ckpt", ".pkl", ".zip", ".tar", ".gz",
)  # fmt: skip
FOLDERS = ("original", "onnx", "openvino", "coreml", "runs", "logs")

Doing = Literal["wait", "check", "download"]
State = Literal["fetched", "already complete", "local", "left alone"]


class FetchError(StagingError):
    """A model cannot be staged. The text is one line that says what to do."""


class NoAccess(FetchError):
    """Gated, or the token is not accepted."""


class NoSuchModel(FetchError):
    """The hub does not know the model, the commit or the file, or does not show it."""


class Unreachable(FetchError):
    """The hub does not answer, or not now; `wait_s` is what it asked for."""

    def __init__(self, message: str, wait_s: float = 0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Damaged(FetchError):
    """A file came twice with the wrong bytes."""


@dataclass(frozen=True)
class FetchProgress:
    """`done` of a source's `total` bytes are there and hashed; they become fewer if some were wrong.

    doing: `wait` for another fetch of the same model, `check` bytes on the disk, `download` from the hub.
    """

    source: str
    doing: Doing
    done: int
    total: int


@dataclass(frozen=True)
class Report:
    """What became of one source. `models` are the served ids that use it; `seconds` and bytes are this run's.

    folder: where it lies; None if it was left alone. revision: the commit, of hub models only.
    reason: why it was left alone, or what is wrong with a local folder.
    """

    models: tuple[str, ...]
    source: str
    state: State
    folder: Path | None = None
    revision: str | None = None
    files: int = 0
    bytes: int = 0
    downloaded: int = 0
    seconds: float = 0
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "folder": self.folder and str(self.folder), "seconds": round(self.seconds, 3)}

    def line(self) -> str:
        """For a person."""
        who = f"{', '.join(self.models)}: {self.source}: {self.state}"
        if self.state == "fetched":
            who += f", {self.files} files, {gib(self.bytes)}, {gib(self.downloaded)} of it now in {self.seconds:.0f} s"
        elif self.state == "already complete":
            who += f", {self.files} files, {gib(self.bytes)}"
        place = f", in {self.folder}" if self.folder and self.state != "local" else ""
        return f"{who}{place}{f' ({self.reason})' if self.reason else ''}"


@dataclass(frozen=True)
class RemoteFile:
    """A file of the hub. Large ones (LFS, Xet) have a sha256, the others the SHA-1 of their git blob."""

    path: str
    size: int
    sha256: str | None
    blob: str | None

    @property
    def part(self) -> str:
        """Name of its unfinished bytes; another path or other content has another."""
        about = hashlib.sha256(f"{self.path}\0{self.sha256 or self.blob}".encode()).hexdigest()
        return f"{PurePosixPath(self.path).name[:128]}.{about[:16]}"


@dataclass(frozen=True)
class Listing:
    """A model as of one commit: the files that vLLM needs."""

    source: str
    revision: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Hub:
    """The hub's door. Unset, `endpoint` and `token` are those of huggingface_hub: HF_ENDPOINT, HF_TOKEN, its login.

    timeout_s: longest silence. pause_s: before the second try; doubled before each further one.
    """

    endpoint: str | None = None
    token: str | None = None
    timeout_s: float = 30
    pause_s: float = 2

    @property
    def address(self) -> str:
        from huggingface_hub import constants

        return (self.endpoint or constants.ENDPOINT).rstrip("/")

    def listing(self, source: str, revision: str | None = None) -> Listing:
        """What to fetch of a model, at a commit or the newest one. Raises FetchError, above all if it is gated."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.address, token=self.token)
        try:
            info = api.model_info(source, revision=revision, files_metadata=True, timeout=self.timeout_s)
            if info.gated:
                api.auth_check(source)
        except Exception as error:  # which HTTP library's errors come through depends on huggingface_hub's version
            raise self._listing_error(error, source) from error
        files = [_remote_file(source, sibling) for sibling in needed(info.siblings or [])]
        if not any(file.path.endswith(WEIGHTS) for file in files):
            raise FetchError(f"{source} has no weights that vLLM reads (safetensors); choose another model")
        return Listing(source, info.sha or revision or "main", tuple(files))

    @contextmanager
    def read(self, listing: Listing, path: str, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """A file's bytes from `start` on, and where they really start: at 0 if the hub gives no ranges."""
        from huggingface_hub import get_token, hf_hub_url

        url = hf_hub_url(listing.source, path, revision=listing.revision, endpoint=self.address)
        # A compressed answer has no ranges. httpx drops the token where the hub sends on to another host.
        headers = {"accept-encoding": "identity"}
        if token := self.token or get_token():
            headers["authorization"] = f"Bearer {token}"
        if start:
            headers["range"] = f"bytes={start}-"
        try:
            with httpx.stream(
                "GET", url, headers=headers, follow_redirects=True, timeout=self.timeout_s, verify=_certificates()
            ) as answer:
                if answer.status_code == 416:  # there is no more
                    yield start, iter(())
                    return
                self._check(answer, listing.source, path)
                yield start if answer.status_code == 206 else 0, answer.iter_bytes()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _check(self, answer: httpx.Response, source: str, path: str) -> None:
        status = answer.status_code
        if status in TRANSIENT:
            raise Unreachable(f"{self.address} answers {status} for {source}: try again later", _retry_after(answer))
        if status >= 400:
            raise self._refusal(status, answer.headers.get("x-error-code", ""), f"{source}/{path}", source)

    def _listing_error(self, error: Exception, source: str) -> FetchError:
        """What a person does about an error of huggingface_hub."""
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        if isinstance(error, OfflineModeIsEnabled):
            return Unreachable("HF_HUB_OFFLINE is set, so the hub is not asked; unset it for this command")
        if isinstance(error, HFValidationError):
            return NoSuchModel(f"{source!r} is no hub id; write owner/name")
        if not isinstance(error, HfHubHTTPError):
            return self._unreachable(error)
        if error.response.status_code in TRANSIENT:
            return Unreachable(f"{self.address} answers {error.response.status_code} for {source}: try again later")
        return self._refusal(error.response.status_code, error.response.headers.get("x-error-code", ""), source, source)

    def _refusal(self, status: int, code: str, what: str, source: str) -> FetchError:
        if code == "GatedRepo":
            return NoAccess(
                f"{source} is gated: accept its licence at {self.address}/{source}, then set HF_TOKEN to a token of "
                f"that account (or run `hf auth login`) and run this again"
            )
        if code == "RevisionNotFound":
            return NoSuchModel(
                f"{source}: the commit that was begun with is gone from the hub; remove its folder and run this again"
            )
        if status in (404, 410) or code == "RepoNotFound":
            return NoSuchModel(f"the hub shows no {what}: check the id, and set HF_TOKEN if it is a private model")
        if status in (401, 403):
            return NoAccess(
                f"the hub refuses {what} ({status}): set HF_TOKEN to a token that may read it, from "
                f"{self.address}/settings/tokens"
            )
        return FetchError(f"{self.address} answers {status} for {what}: try again later")

    def _unreachable(self, error: Exception) -> Unreachable:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Unreachable(
            f"{self.address} does not answer ({reason}): run this where there is a connection, for example on a login "
            f"node; HTTPS_PROXY names a proxy. What is there is kept"
        )


def fetch(
    specs: Iterable[ModelSpec],
    folder: Path,
    *,
    hub: Hub | None = None,
    verify: bool = False,
    on_progress: Callable[[FetchProgress], None] = lambda progress: None,
) -> list[Report]:
    """Stage what the models and their adapters are made of into `folder`; a report for each source.

    What is complete already is not asked for at the hub; with `verify` its files are hashed again, and wrong ones
    fetched anew. Everything is listed, and room for it looked for, before the first byte is downloaded. May be ended
    at any time and run again. `on_progress` comes from several threads, never two at once.
    Raises FetchError, NoRoom; both are StagingError.
    """
    folder = folder.expanduser().absolute()
    tasks = [_Task(hub or Hub(), source, models, folder, on_progress) for source, models in sources(specs).items()]
    with disk_errors(folder):
        for task in tasks:
            task.plan(verify)
        if missing := sum(task.missing() for task in tasks):
            folder.mkdir(parents=True, exist_ok=True)
            need_room(folder, missing)
        return [task.run() for task in tasks]


def sources(specs: Iterable[ModelSpec]) -> dict[str, tuple[str, ...]]:
    """Every source of the models and their adapters -> the served ids that use it."""
    users: dict[str, tuple[str, ...]] = {}
    for spec in specs:
        adapters = spec.lora.adapters if spec.lora else {}
        for model, source in ((spec.id, spec.source), *adapters.items()):
            users[source] = (*users.get(source, ()), model)
    return users


def staged_source(source: str, folder: Path) -> Path | None:
    """Where a hub id lies staged and whole in `folder`, so that it can be served with the hub off; else None."""
    if not is_hub_id(source):
        return None
    place = staging_folder(source, folder)
    manifest = read_manifest(place)
    return place if manifest and manifest.complete(place) else None


def staging_folder(source: str, folder: Path) -> Path:
    """Where a hub id is staged. No hub id has `--`, so no two share a folder."""
    return folder / "weights" / source.replace("/", "--")


def is_hub_id(source: str) -> bool:
    """Whether it is owner/name, and no folder (./x, ~/x, /x), `pocket:NAME` or address."""
    return bool(HUB_ID.fullmatch(source)) and absolute(source, Path("/")) == source


def needed(siblings: Iterable[Any]) -> list[Any]:
    """The files (anything with `rfilename`) that vLLM needs: one format of weights, and what is small."""
    kept = [sibling for sibling in siblings if not _hidden(sibling.rfilename)]
    best = next((end for end in WEIGHTS if any(_is_weight(sibling.rfilename, end) for sibling in kept)), WEIGHTS[0])
    return [s for s in kept if _is_weight(s.rfilename, best) or not s.rfilename.lower().endswith(USELESS)]


def _hidden(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return path == MANIFEST or parts[0] in FOLDERS or any(part.startswith(".") for part in parts if part != "..")


def _is_weight(path: str, end: str) -> bool:
    """vLLM reads weights of the top folder only; trainers leave their state there, too."""
    return "/" not in path and path.endswith(end) and not path.startswith(("training_args", "optimizer", "scheduler"))


def _remote_file(source: str, sibling: Any) -> RemoteFile:
    lfs = sibling.lfs
    size = sibling.size if sibling.size is not None else lfs and lfs.size
    file = RemoteFile(sibling.rfilename, size or 0, lfs.sha256 if lfs else None, sibling.blob_id)
    try:
        plain_path(file.path)
    except ValueError as error:
        raise FetchError(f"{source}: {error}; do not use this model") from None
    if size is None or not (file.sha256 or file.blob):
        raise FetchError(f"{source}: the hub gives no size or hash of {file.path}; unset HF_ENDPOINT if it is a mirror")
    return file


@cache
def _certificates() -> ssl.SSLContext:
    """Whom to trust; reading them takes longer than many a file."""
    return httpx.create_ssl_context()


def _retry_after(answer: httpx.Response) -> float:
    seconds = answer.headers.get("retry-after", "")
    return min(float(seconds), LONGEST_WAIT_S) if seconds.isdecimal() else 0


class _Digest:
    """Both hashes of a file, as its bytes come."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._blob = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        if not self._file.sha256:
            self._blob.update(chunk)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def right(self) -> bool:
        if self._file.sha256:
            return self.sha256 == self._file.sha256
        return self._blob.hexdigest() == self._file.blob


class _Part:
    """A file that is not whole yet: what earlier runs left of it, and what is added."""

    def __init__(self, path: Path, file: RemoteFile, count: Callable[[Doing, int], None]) -> None:
        self._path = path
        self._file = file
        self._count = count
        self._stream = path.open("a+b")
        self._digest = _Digest(file)
        self.size = 0
        self.downloaded = 0

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def check(self) -> None:
        """Hash what is there, and forget it if it is too much."""
        self._stream.seek(0)
        while chunk := self._stream.read(READ):
            self._seen("check", chunk)
        if self.size > self._file.size:
            self.restart()

    def write(self, chunk: bytes) -> None:
        self._stream.write(chunk)
        self.downloaded += len(chunk)
        self._seen("download", chunk)

    def restart(self) -> None:
        """Forget what is there."""
        self._stream.truncate(0)
        self._count("download", -self.size)
        self.size, self._digest = 0, _Digest(self._file)

    def finish(self, path: Path) -> StagedFile | None:
        """Give it its place, if it is right."""
        if self.size != self._file.size or not self._digest.right:
            return None
        self._stream.flush()
        os.fsync(self._stream.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path.replace(path)
        return StagedFile(path=self._file.path, size=self.size, sha256=self._digest.sha256)

    def _seen(self, doing: Doing, chunk: bytes) -> None:
        self.size += len(chunk)
        self._digest.update(chunk)
        self._count(doing, len(chunk))


class _Task:
    """One source: what is to be done about it, and the doing."""

    def __init__(
        self,
        hub: Hub,
        source: str,
        models: tuple[str, ...],
        folder: Path,
        on_progress: Callable[[FetchProgress], None],
    ) -> None:
        self._hub = hub
        self._source = source
        self._models = models
        self._place = staging_folder(source, folder)
        self._parts = self._place / PARTS
        self._on_progress = on_progress
        self._doing: Doing = "check"
        self._report: Report | None = None
        self._listing: Listing | None = None

    def plan(self, verify: bool) -> None:
        """Find out whether, and what, there is to fetch."""
        if not is_hub_id(self._source):
            self._report = self._elsewhere()
            return
        if verify:
            self._remove_wrong()
        self._report = self._complete()
        if not self._report:
            self._listing = self._hub.listing(self._source, self._begun())

    def missing(self) -> int:
        """Bytes to download."""
        files = self._listing.files if self._listing else ()
        return sum(max(0, file.size - self._has(file)) for file in files)

    def run(self) -> Report:
        """Do it. Raises FetchError, StagingError."""
        if self._report:
            return self._report
        assert self._listing, "it is planned first"
        listing, lock = self._listing, self._place.with_name(f".{self._place.name}.lock")
        with locked(lock, lambda: self._tell("wait", 0, listing.size)):
            return self._complete() or self._stage(listing)

    def _complete(self) -> Report | None:
        """The report, if all is there: since long, or since the fetch that was waited for."""
        manifest = read_manifest(self._place)
        return self._said("already complete", manifest) if manifest and manifest.complete(self._place) else None

    def _elsewhere(self) -> Report:
        """What is no model of the hub."""
        if "://" in self._source:
            why = "the engine reads it from there by itself, so its nodes need a connection to it"
            return Report(self._models, self._source, "left alone", reason=why)
        pocket = self._source.startswith(POCKET)
        path = CHECKPOINTS / self._source.removeprefix(POCKET) if pocket else Path(absolute(self._source, Path.cwd()))
        why = "" if path.is_dir() else "there is no such folder"
        return Report(self._models, self._source, "local", path, reason=why)

    def _remove_wrong(self) -> None:
        """Hash every file again; without its wrong ones the model is not complete."""
        manifest = read_manifest(self._place)
        if manifest and manifest.complete(self._place):
            meter = Meter(manifest.size, lambda done, total: self._tell("check", done, total))
            each(lambda file: self._remove_if_wrong(file, meter), manifest.files, meter)

    def _remove_if_wrong(self, file: StagedFile, meter: Meter) -> None:
        digest, path = hashlib.sha256(), self._place / file.path
        with path.open("rb") as stream:
            while chunk := stream.read(READ):
                digest.update(chunk)
                meter.add(len(chunk))
        if digest.hexdigest() != file.sha256:
            path.unlink()

    def _begun(self) -> str | None:
        """The commit that an earlier run began with: files of two commits do not fit together."""
        if manifest := read_manifest(self._place):
            return manifest.revision
        try:
            return (self._parts / "revision").read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def _has(self, file: RemoteFile) -> int:
        for path in (self._place / file.path, self._parts / file.part):
            if path.is_file():
                return path.stat().st_size
        return 0

    def _stage(self, listing: Listing) -> Report:
        began = time.monotonic()
        self._begin(listing)
        meter = Meter(listing.size, lambda done, total: self._tell(self._doing, done, total))
        self._tell("check", 0, listing.size)
        fetched = each(lambda file: self._file(listing, file, meter), listing.files, meter)
        manifest = Manifest(source=self._source, revision=listing.revision, files=tuple(file for file, _ in fetched))
        write_manifest(self._place, manifest)
        shutil.rmtree(self._parts)
        downloaded = sum(count for _, count in fetched)
        return self._said("fetched", manifest, downloaded, time.monotonic() - began)

    def _begin(self, listing: Listing) -> None:
        self._parts.mkdir(parents=True, exist_ok=True)
        (self._parts / "revision").write_text(listing.revision, encoding="utf-8")
        (self._place / MANIFEST).unlink(missing_ok=True)

    def _file(self, listing: Listing, file: RemoteFile, meter: Meter) -> tuple[StagedFile, int]:
        """One file in its place, and the bytes downloaded for it. Raises Damaged if it came wrong twice."""
        path, downloaded = self._place / file.path, 0
        if path.is_file():  # of an earlier run; there is no manifest, so it is hashed as if it were unfinished
            path.replace(self._parts / file.part)
        for _ in range(2):
            with _Part(self._parts / file.part, file, lambda doing, count: self._count(meter, doing, count)) as part:
                part.check()
                self._fill(part, listing, file, meter)
                downloaded += part.downloaded
                if staged := part.finish(path):
                    return staged, downloaded
                part.restart()
        raise Damaged(
            f"{self._source}/{file.path} came twice with wrong bytes (hash or size): try again later, or unset "
            f"HF_ENDPOINT if it is a mirror"
        )

    def _fill(self, part: _Part, listing: Listing, file: RemoteFile, meter: Meter) -> None:
        """Go on until the hub has no more. Raises Unreachable after TRIES requests that brought nothing."""
        left = TRIES
        while part.size < file.size:
            before = part.size
            try:
                self._request(part, listing, file)
                return
            except Unreachable as error:
                left = TRIES - 1 if part.size > before else left - 1
                if not left:
                    raise
                meter.pause(max(error.wait_s, self._hub.pause_s * 2 ** (TRIES - 1 - left)))

    def _request(self, part: _Part, listing: Listing, file: RemoteFile) -> None:
        with self._hub.read(listing, file.path, part.size) as (start, chunks):
            if start != part.size:
                part.restart()
            for chunk in chunks:
                part.write(chunk)
                if part.size > file.size:
                    return

    def _count(self, meter: Meter, doing: Doing, count: int) -> None:
        self._doing = doing
        meter.add(count)

    def _tell(self, doing: Doing, done: int, total: int) -> None:
        self._on_progress(FetchProgress(self._source, doing, done, total))

    def _said(self, state: State, manifest: Manifest, downloaded: int = 0, seconds: float = 0) -> Report:
        return Report(
            models=self._models, source=self._source, state=state, folder=self._place, revision=manifest.revision,
            files=len(manifest.files), bytes=manifest.size, downloaded=downloaded, seconds=seconds,
        )  # fmt: skip
