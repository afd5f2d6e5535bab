"""Weights before the queue: models of a profile, from the Hugging Face hub into a folder that the jobs share.

FOLDER/weights/OWNER--NAME/ holds a model and, written last, its manifest (slurm/staging.py). Until then `.parts` in
there has the commit that was begun with, and the bytes of files that are not whole, under the names of their hashes:
whoever comes next goes on from those.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from app.download import READ, Doing, Part
from app.fetch_report import FetchProgress, Report, State
from app.hub import Damaged, Hub, Listing, RemoteFile, Unreachable
from app.profile import absolute
from app.settings import POCKET
from deployments.config import ModelSpec
from deployments.pocket import CHECKPOINTS
from slurm.staging import (
    MANIFEST,
    Manifest,
    Meter,
    StagedFile,
    disk_errors,
    each,
    locked,
    need_room,
    read_manifest,
    write_manifest,
)

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
PARTS = ".parts"
TRIES = 6
"""Requests in a row that bring nothing before the hub counts as gone; the waits between them add up to a minute."""


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
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
            with Part(self._parts / file.part, file, lambda doing, count: self._count(meter, doing, count)) as part:
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

    def _fill(self, part: Part, listing: Listing, file: RemoteFile, meter: Meter) -> None:
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

    def _request(self, part: Part, listing: Listing, file: RemoteFile) -> None:
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
