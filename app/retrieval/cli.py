"""`corral ingest` and `corral collections`: parse, call, print. What they do lies in rag/, what is shown in view.py."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.options import DEFAULT, Json, Profile, Url
from app.settings import Settings, SettingsError, load_settings
from app.show import print_error, print_json
from rag.config import Mode, RagConfig

if TYPE_CHECKING:
    from rag.collection_library import Library
    from rag.inputs import Inputs
    from rag.passages import Scalar
    from rag.reranker import CrossEncoder

SOME_FAILED = 11
"""Exit code of an ingest where some files went in and others did not, or none did."""
collections = typer.Typer(no_args_is_help=True, help="Look at collections of documents, search in them, delete them.")

Folder = Annotated[Path | None, typer.Option("--folder", help="Where collections lie; the profile's if unset.")]
Collection = Annotated[str, typer.Argument(help="A collection.")]


def ingest(
    collection: Annotated[str, typer.Option("--collection", "-c", help="Made if there is none yet.")],
    paths: Annotated[list[Path] | None, typer.Argument(help="Files, and folders with all that is in them.")] = None,
    profile: Profile = None, folder: Folder = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove documents of these folders that are gone.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Embed all anew, with the profile's model.")] = False,
    meta: Annotated[list[str] | None, typer.Option("--meta", help="key=value, for filters; once for each.")] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Send them to this service of yours.")] = None,
    url: Url = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Put documents into a collection; what is there already and has not changed costs nothing.

    Works on the folder of the collections, with or without a service, which takes up the new version by itself; with
    --name or --url the files are sent to a service. Ends with 0 if all went in, with 11 if some did not.
    """
    remote = name is not None or url is not None
    _check(paths, remote=remote, prune=prune, rebuild=rebuild)
    metadata = _metadata(meta or [])
    found = _find(paths or [], metadata)
    if remote:
        report = _send(collection, found, metadata, name or DEFAULT, url, quiet=as_json)
    else:
        library = _library(load_settings(profile), folder)
        report = _ingest(library, collection, found, prune=prune, rebuild=rebuild, quiet=as_json)
    _print_report(report, as_json=as_json)
    if report["failed"]:
        raise typer.Exit(SOME_FAILED)


def _check(paths: Sequence[Path] | None, *, remote: bool, prune: bool, rebuild: bool) -> None:
    if remote and (prune or rebuild):
        wrong = "--prune" if prune else "--rebuild"
        raise typer.BadParameter("works on the collections' folder, without --name and --url", param_hint=wrong)
    if not paths and not rebuild:
        raise typer.BadParameter("name at least one file or folder", param_hint="PATHS")


def _find(paths: Sequence[Path], metadata: dict[str, Scalar]) -> Inputs:
    from rag.documents.load import SUFFIXES
    from rag.inputs import find_inputs

    return find_inputs(paths, SUFFIXES, metadata)


def _ingest(
    library: Library, collection: str, found: Inputs, *, prune: bool, rebuild: bool, quiet: bool
) -> dict[str, Any]:
    from app.retrieval.view import IngestBar
    from rag.embeddings import TextEmbeddings
    from rag.ingest import ingest as ingest_files
    from rag.passages import collection_name

    collection_name(collection)
    try:
        embeddings = TextEmbeddings.open(library.config.embedding)
        with _folder_errors(library), IngestBar(quiet=quiet) as bar:
            report = ingest_files(
                library, collection, found, embeddings, prune=prune, rebuild=rebuild, on_progress=bar.update
            )
    except KeyboardInterrupt:
        print_error("documents that were embedded are kept; the same command goes on from there")
        raise
    return report.to_json()


def _send(
    collection: str, found: Inputs, metadata: dict[str, Scalar], name: str, url: str | None, *, quiet: bool
) -> dict[str, Any]:
    import httpx

    from app.reach import reach
    from app.retrieval.send import SILENCE_S, send
    from app.retrieval.view import IngestBar

    with httpx.Client(**reach(name, url, SILENCE_S)) as client, IngestBar(quiet=quiet) as bar:
        return send(client, collection, found, metadata, on_progress=bar.update)


def _print_report(report: dict[str, Any], *, as_json: bool) -> None:
    from app.tribunal.deliberation import clean
    from rag.ingest_report import report_lines

    if as_json:
        print_json(report)
    else:
        typer.echo(clean("\n".join(report_lines(report))))


@collections.command(name="list")
def list_collections(profile: Profile = None, folder: Folder = None, as_json: Json = False) -> None:
    """All collections, and whether they answer."""
    from app.retrieval.view import collections_table
    from rag.cards import cards

    library = _library(load_settings(profile), folder)
    with _folder_errors(library):
        found = cards(library)
    if as_json:
        print_json(found)
    else:
        typer.echo(collections_table(found), nl=False)


@collections.command()
def show(
    name: Collection, profile: Profile = None, folder: Folder = None, as_json: Json = False,
    limit: Annotated[int, typer.Option("--limit", "-l", min=0, help="Most documents that are listed.")] = 50,
) -> None:  # fmt: skip
    """One collection and its documents; JSON lists them all."""
    from app.retrieval.view import collection_text
    from rag.cards import card, document_json

    library = _library(load_settings(profile), folder)
    with _folder_errors(library):
        snapshot = library.snapshot(name)
    if as_json:
        print_json({**card(snapshot), "data": [document_json(entry) for entry in snapshot.documents]})
    else:
        typer.echo(collection_text(card(snapshot), map(document_json, snapshot.documents), limit), nl=False)


@collections.command()
def delete(
    name: Collection, profile: Profile = None, folder: Folder = None, as_json: Json = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:  # fmt: skip
    """Delete a collection with all its documents. The files that they were read from stay."""
    from rag.errors import UnknownCollection
    from rag.passages import collection_name

    library = _library(load_settings(profile), folder)
    with _folder_errors(library):
        if not (library.folder / collection_name(name)).is_dir():  # a first ingest that broke off has no version
            raise UnknownCollection(name, library.names())
    if not yes:
        typer.confirm(f"Delete the collection {name}?", abort=True, err=True)
    with _folder_errors(library):
        library.delete(name)
    if as_json:
        print_json({"name": name, "deleted": True})
    else:
        typer.echo(f"{name} is deleted.")


@collections.command()
def search(
    name: Collection,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    mode: Annotated[Mode | None, typer.Option("--mode", help="How; the profile's if unset.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", min=1, max=100, help="Passages that are found.")] = None,
    rerank: Annotated[bool | None, typer.Option("--rerank/--no-rerank", help="By the profile's cross-encoder.")] = None,
    profile: Profile = None, folder: Folder = None, as_json: Json = False,
) -> None:  # fmt: skip
    """The passages nearest to a query, best first."""
    from app.retrieval.view import hits_text, search_json
    from rag.embeddings import TextEmbeddings
    from rag.search import Searcher

    library = _library(load_settings(profile), folder)
    with _folder_errors(library):
        snapshot = library.snapshot(name)
    searcher = Searcher(
        TextEmbeddings.open(library.config.embedding), library.config.search, _reranker(library, rerank)
    )
    result = searcher.search(snapshot, query, k=top_k, mode=mode, rerank=rerank)
    if as_json:
        print_json(search_json(name, result))
    else:
        typer.echo(hits_text(result), nl=False)


@contextmanager
def _folder_errors(library: Library) -> Iterator[None]:
    """What the system refuses there (no permission, read-only, no folder) is told in one line."""
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"{error.filename or library.folder}: {error.strerror or error}; give another folder (--folder, rag.folder)"
        ) from error


def _reranker(library: Library, wanted: bool | None) -> CrossEncoder | None:
    model = library.config.search.reranker
    if model is None and wanted:
        raise SettingsError("rag.search.reranker: the profile names none; set it, for example to pocket:rerank")
    if model is None or wanted is False:
        return None
    from rag.reranker import CrossEncoder

    return CrossEncoder.open(model)


def _library(settings: Settings, folder: Path | None) -> Library:
    from app.retrieval.resolved import COLLECTIONS, with_documents
    from rag.collection_library import Library

    config = with_documents(_at(settings, folder)).rag
    assert config.folder is not None
    return Library(Path(config.folder) / COLLECTIONS, config)


def _at(settings: Settings, folder: Path | None) -> Settings:
    """The settings with another folder for the documents."""
    if folder is None:
        return settings
    rag: RagConfig = settings.rag.model_copy(update={"folder": str(folder)})
    return settings.model_copy(update={"rag": rag})


def _metadata(pairs: Sequence[str]) -> dict[str, Scalar]:
    """key=value; true, false and numbers are taken as such where they read the same."""
    found: dict[str, Scalar] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{pair!r} is not key=value, for example year=2026", param_hint="--meta")
        found[key] = _scalar(text)
    return found


def _scalar(text: str) -> Scalar:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if str(number) == text and abs(number) < math.inf:  # 007, 1.10 and nan are names, not numbers
            return number
    return text
