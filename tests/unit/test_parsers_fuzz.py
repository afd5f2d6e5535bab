"""Parsers that meet what others wrote: a value, or the error that they name; never anything else."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.access.keeper_routes import usage
from app.access.key_records import KeysError
from app.access.key_store import KeyStore
from app.allocation.records import Record
from app.body import validate
from app.wire import BulkItem, BulkRequest, GenerateRequest
from deployments.deadline import LONGEST_S, timeout_of
from deployments.errors import BadRequest, Forbidden
from deployments.principal import HEADER, SECRET_HEADER, Principal
from deployments.secret import Door
from rag.config import FileLimits
from rag.documents.docx import read_docx
from rag.documents.html import read_html
from rag.documents.markdown import read_markdown
from rag.documents.pdf import read_pdf
from rag.documents.text import read_text
from rag.errors import DocumentError
from slurm.binds import Bind
from slurm.jobs import SEPARATOR, parse_jobs, parse_time
from slurm.partitions import parse_gpus, parse_partitions
from slurm.timeline import parse_timeline
from slurm.walltime import format_walltime, parse_limit, parse_walltime
from tests.unit.access_fakes import Desk, open_desk
from tests.unit.mutations import changed, damaged

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
LINES = st.text(alphabet="0123456789-:/.,|[]()n *~#gpu=²\n\t" + SEPARATOR, max_size=200)
CLOCKS = st.text(alphabet="0123456789-:. dhms²UNLIMTE", max_size=20)
LIMITS = FileLimits()


@contextmanager
def written(content: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.json"
        path.touch(mode=0o600)
        path.write_bytes(content)
        yield path


@settings(deadline=None)
@given(st.binary(max_size=20) | st.floats().map(lambda number: str(number).encode()))
@example(b"1_0")
@example(b"0x1")
def test_a_deadline_is_seconds_or_refused(given_value: bytes) -> None:
    with suppress(BadRequest):
        seconds = timeout_of({"headers": [(b"x-request-timeout", given_value)]})
        assert seconds is not None
        assert 0 < seconds <= LONGEST_S


PRINCIPAL = Principal("k", "lab", ("models", "rag:handbook"), 2.0, 0.5, "r", "mine", "00-0-0-01")


@settings(deadline=None)
@given(st.binary(max_size=40)
       | damaged(PRINCIPAL.to_header().encode())
       | changed(json.loads(PRINCIPAL.to_header())).map(lambda told: json.dumps(told).encode()))  # fmt: skip
@example(b"[" * 100_000)
@example(b'{"scopes": [[]]}')
def test_a_header_is_whom_it_names_or_nobody(header: bytes) -> None:
    with suppress(ValueError, TypeError, KeyError):
        principal = Principal.from_header(header)
        assert principal.to_header().isascii()
        assert Principal.from_header(principal.to_header()) == principal
        assert isinstance(principal.may("models", "m"), bool)
        assert isinstance(principal.may_some("rag"), bool)
        assert principal.weight * principal.group_weight >= 0
    headers = [(SECRET_HEADER.encode(), b"secret"), (HEADER.encode(), header)]
    Door("secret").principal({"type": "http", "headers": headers})


@settings(deadline=None)
@given(texts=st.tuples(*[st.text(max_size=8)] * 5), scopes=st.lists(st.text(max_size=8), max_size=3),
       weights=st.tuples(st.floats(0, 1e6), st.integers(0, 1000)))  # fmt: skip
def test_a_principal_comes_back_from_its_header(
    texts: tuple[str, str, str, str, str], scopes: list[str], weights: tuple[float, float]
) -> None:
    key, group, request, label, trace = texts
    principal = Principal(key, group, tuple(scopes), *weights, request, label, trace)
    assert Principal.from_header(principal.to_header()) == principal
    assert Principal.from_json(principal.to_json()) == principal


FIELDS = st.sampled_from(
    ["model", "prompt", "messages", "items", "defaults", "stream", "stop", "n", "id", "max_tokens"]
)


@pytest.mark.parametrize("model", [GenerateRequest, BulkItem, BulkRequest])
@settings(deadline=None)
@given(body=st.dictionaries(FIELDS, VALUES) | VALUES)
def test_a_body_is_read_or_its_field_named(model: type[Any], body: Any) -> None:
    try:
        read = validate(model, body)
    except BadRequest as error:
        assert error.param  # noqa: PT017
        return
    written = read.model_dump(mode="json", exclude_none=True, warnings=False)  # items are looked at one by one, later
    assert validate(model, written) == read


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path) as desk:
        yield desk


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80) | VALUES.map(lambda value: json.dumps(value).encode())
       | st.fixed_dictionaries(dict.fromkeys(("status", "uid", "key", "model", "path", "method"), VALUES))
       .map(lambda line: json.dumps(line).encode()))  # fmt: skip
def test_any_line_of_the_edges_log_is_counted_or_passed_over(desk: Desk, line: bytes) -> None:
    desk.keeper.ended(line)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.dictionaries(st.sampled_from(["since", "until", "key", "by", "x"]), st.text(max_size=12)))
def test_any_question_for_usage_is_answered_or_refused(desk: Desk, query: dict[str, str]) -> None:
    for principal in (Principal(), Principal("k", scopes=("models",))):
        with suppress(BadRequest, Forbidden):
            assert usage(desk.keeper, principal, query)["object"] == "usage"


@settings(deadline=None)
@given(st.binary(max_size=100) | VALUES.map(lambda value: json.dumps(value).encode())
       | VALUES.map(lambda value: json.dumps({"version": 1, "groups": [], "keys": value}).encode()))  # fmt: skip
def test_a_damaged_file_of_keys_is_told_without_what_it_holds(content: bytes) -> None:
    with written(content) as path, suppress(KeysError):
        KeyStore(path).load()


@dataclass(frozen=True)
class Note(Record):
    who: str
    when: float = 0


@settings(deadline=None)
@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_a_record_that_is_half_written_is_none(content: bytes) -> None:
    with written(content) as path:
        assert Note.read(path) is None or isinstance(Note.read(path), Note)
        Note("ana", 1.5).write(path)
        whole = path.read_bytes()
        for cut in range(len(whole)):
            path.write_bytes(whole[:cut])
            assert Note.read(path) is None


@settings(deadline=None)
@given(CLOCKS)
@example("9" * 30)
@example("9" * 5000)
def test_a_duration_is_read_or_a_value_error(text: str) -> None:
    parse_limit(text)
    with suppress(ValueError):
        read = parse_walltime(text)
        assert parse_walltime(format_walltime(read)) == read


@pytest.mark.parametrize("parse", [parse_jobs, parse_partitions, Bind.parse])
@settings(deadline=None)
@given(text=LINES)
def test_what_slurm_prints_is_read_or_a_value_error(parse: Callable[[str], object], text: str) -> None:
    with suppress(ValueError):
        parse(text)


@pytest.mark.parametrize("parse", [parse_time, parse_gpus, parse_timeline])
@settings(deadline=None)
@given(text=LINES | CLOCKS)
@example(text="²")
@example(text="0001-01-01")
def test_a_word_of_slurms_that_is_unknown_is_none(parse: Callable[[str], object], text: str) -> None:
    parse(text)


DOCUMENTS = st.binary(max_size=300) | st.sampled_from(
    [b"%PDF-1.7\n", b"PK\x03\x04", b"<html><p>", b"# a\n```\n"]
).flatmap(lambda begun: st.binary(max_size=200).map(lambda rest: begun + rest))


@pytest.mark.filterwarnings("ignore")  # of bs4 and pypdf: about what they were given
@pytest.mark.parametrize("read", [read_docx, read_html, read_markdown, read_pdf, read_text])
@settings(max_examples=40, deadline=None)
@given(data=DOCUMENTS)
def test_a_document_is_read_or_refused(read: Callable[[bytes, FileLimits], object], data: bytes) -> None:
    with suppress(DocumentError):
        assert read(data, LIMITS) is not None
