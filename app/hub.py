"""The Hugging Face hub: what there is of a model, the bytes of its files, and what a person does when it refuses.

huggingface_hub lists; it downloads into files that it drops when it ends (version 2.4), so the bytes are read here.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import httpx

from slurm.staging import MANIFEST, StagingError, plain_path

TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT_S = 300
WEIGHTS = (".safetensors", ".bin", ".pt")
"""Formats that vLLM reads, the preferred one first; of a model only one is fetched."""
USELESS = (
    *WEIGHTS, ".pth", ".gguf", ".ggml", ".onnx", ".onnx_data", ".h5", ".msgpack", ".ot", ".tflite", ".npz", ".mlmodel",
    ".ckpt", ".pkl", ".zip", ".tar", ".gz",
)  # fmt: skip
FOLDERS = ("original", "onnx", "openvino", "coreml", "runs", "logs")


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
