"""The records on the shared folder: they come back, are their owner's alone, and what cannot be read is None."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from app.allocation.records import (
    Address,
    ClusterRecord,
    JobRecord,
    JobStatus,
    NodeRecord,
    Record,
    ServiceFolder,
    ServiceJob,
)

ADDRESS = Address(7, "n1", "10.0.0.1", 8000, 1000.5)
WITH_TLS = Address(7, "n1", "10.0.0.1", 8000, 1000.5, "https", "/shared/certificate.pem", "AB:CD")
NODES = {"n1": {"group": "main", "state": "joined", "detail": ""}}


@pytest.fixture
def service(tmp_path: Path) -> ServiceFolder:
    folder = ServiceFolder.of(tmp_path, "me", "herd")
    folder.create()
    return folder


def submitted(service: ServiceFolder, name: str, record: JobRecord | None) -> ServiceJob:
    job = ServiceJob(service.jobs / name)
    job.create()
    if record:
        record.write(job.job_file)
    return job


@pytest.mark.parametrize(
    "record",
    [
        ADDRESS,
        WITH_TLS,
        JobRecord(7, "joiner", 1000.5, "/shared/jobs/1"),
        ClusterRecord(7, 1, "10.0.0.1:6379", "/shared/token", 20000),
        NodeRecord("n1", "main", 7, 1, "joined", "10.0.0.1", "as ever"),
        JobStatus(7, 1, "serving", 1000.5, "http://10.0.0.1:8000", None, "lost n2", 2000.0, 8, NODES, {}),
    ],
)
def test_a_record_comes_back_and_is_its_owners_alone(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("what was there before")
    path.chmod(0o644)
    record.write(path)
    assert type(record).read(path) == record
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        b"", b'{"job_id": 7, "node"', b'{"job_id": 7}', b"[]", b"[1, 2]", b"null", b"7", b"\xff",
        b'{"job_id": 7, "node": "n1", "host": "h", "port": 1, "since": 1.0, "of a later version": 1}',
    ],
)  # fmt: skip
def test_half_a_record_or_one_of_another_version_is_none(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(text)
    assert Address.read(tmp_path / "record.json") is None


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert Address.read(tmp_path / "record.json") is None
    assert ServiceJob(tmp_path).record() is None
    assert ServiceJob(tmp_path).status() is None


@pytest.mark.parametrize("later", [("fingerprint",), ("fingerprint", "certificate", "scheme")])
def test_the_address_of_a_job_of_an_earlier_version_is_read(later: tuple[str, ...], tmp_path: Path) -> None:
    WITH_TLS.write(tmp_path / "record.json")
    written = json.loads((tmp_path / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps({key: written[key] for key in written if key not in later}))
    found = Address.read(tmp_path / "record.json")
    assert found is not None
    assert (found.fingerprint, found.host) == ("", WITH_TLS.host)


def test_an_address_is_a_url_also_of_ipv6() -> None:
    assert ADDRESS.url == "http://10.0.0.1:8000"
    assert Address(7, "n1", "fd00::1", 8000, 0).url == "http://[fd00::1]:8000"


def test_a_job_is_settled_once_no_model_is_on_its_way() -> None:
    def status(**models: str) -> JobStatus:
        return JobStatus(7, 0, "serving", 0, models={model: {"state": state} for model, state in models.items()})

    assert status(a="ready", b="idle", c="failed").settled
    assert not status(a="ready", b="starting").settled
    assert not status().settled


def test_the_folders_are_their_owners_alone(service: ServiceFolder) -> None:
    job = service.new_job()
    folders = (
        service.path.parent, service.path, service.jobs, job.path, job.logs, job.nodes, job.progress, job.submit,
    )  # fmt: skip
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
    assert (job.service, service.all_jobs()) == (service, [job])


def test_the_latest_is_the_job_that_the_address_names(service: ServiceFolder) -> None:
    serving = submitted(service, "20261121-1", JobRecord(7, "service", 1.0))
    successor = submitted(service, "20261121-2", JobRecord(8, "successor", 2.0))
    assert service.latest() == successor
    ADDRESS.write(service.address)
    assert service.latest() == serving
    Address(9, "n9", "10.0.0.9", 8000, 0).write(service.address)
    assert service.latest() == successor


def test_the_latest_is_never_a_joiner_nor_what_was_not_submitted(service: ServiceFolder) -> None:
    submitted(service, "20261121-0", JobRecord(7, "joiner", 0.0))
    ADDRESS.write(service.address)
    assert service.latest() is None
    serving = submitted(service, "20261121-1", JobRecord(8, "service", 1.0))
    submitted(service, "20261121-2", JobRecord(9, "joiner", 2.0, str(serving.path)))
    submitted(service, "20261121-3", None)
    assert service.latest() == serving


def test_a_joiner_belongs_to_the_job_that_it_names_and_others_to_themselves(service: ServiceFolder) -> None:
    main, joiner = service.new_job(), service.new_job()
    joiner.joins_file.write_text(str(main.path))
    assert (main.joined(), joiner.joined()) == (main, main)


@pytest.mark.parametrize(("text", "deadline"), [("1795251326\n", 1795251326.0), ("", None), ("Unknown\n", None)])
def test_a_deadline_is_unix_seconds(text: str, deadline: float | None, service: ServiceFolder) -> None:
    job = service.new_job()
    assert job.deadline() is None
    job.deadline_file.write_text(text)
    assert job.deadline() == deadline


def test_a_node_may_be_in_two_groups_and_a_half_written_word_is_left_out(service: ServiceFolder) -> None:
    job = service.new_job()
    said = [NodeRecord("n1", group, 7, 0, "joined") for group in ("big", "small")]
    for record in said:
        record.write(job.node_file(record.node, record.group))
    job.node_file("n2", "big").write_text("{")
    assert job.node_records() == said
