"""How a service is found by its name: on this host, in a SLURM job, by its URL."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.allocation.records import Address, JobRecord, JobStatus, ServiceFolder
from app.launch import NotRunningError
from app.monitoring.files import watched
from app.monitoring.places import place
from app.processes import birth
from app.settings import Settings, load_settings
from app.state import ServiceState, write_state
from app.submission.state import Known, remember

KEY = "corral-abcdefgh-" + "0" * 48


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("CORRAL_API_KEY", raising=False)
    (tmp_path / "state").mkdir()


@pytest.fixture
def folder(tmp_path: Path) -> ServiceFolder:
    """Of a service that was submitted, whose job 7 serves."""
    folder = ServiceFolder.of(tmp_path, "me", "mine")
    folder.create()
    cluster = {"walltime": "1:00:00", "shared": str(tmp_path), "groups": [{"nodes": 1, "cpus": 1}]}
    access = {"file": str(tmp_path / "keys.json")}
    profile = {**load_settings("pocket").model_dump(), "cluster": cluster, "access": access}
    folder.settings.write_text(Settings.model_validate(profile).model_dump_json())
    (tmp_path / "first-key").write_text(f"{KEY}\n")
    job = folder.new_job()
    JobRecord(7, "service", 0.0).write(job.job_file)
    JobStatus(7, 0, "serving", 0.0).write(job.status_file)
    Address(7, "n7", "10.0.0.7", 31044, 0.0).write(folder.address)
    remember(Known("mine", str(folder.path), "pocket"))
    return folder


def running(name: str) -> ServiceState:
    state = ServiceState(name, os.getpid(), birth(os.getpid()), "pocket", "/x", "http://127.0.0.1:8000", "serving")
    write_state(state)
    return state


def test_a_service_in_a_job_is_found_by_its_address_file_each_time_anew(folder: ServiceFolder) -> None:
    found = place("mine", None)
    assert (found.url, found.phase) == ("http://10.0.0.7:31044", "serving")
    assert found.reach["headers"] == {"authorization": f"Bearer {KEY}"}
    Address(8, "n8", "10.0.0.8", 31045, 0.0).write(folder.address)
    assert place("mine", None).url == "http://10.0.0.8:31045"
    folder.address.unlink()
    with pytest.raises(NotRunningError, match="no address now"):
        place("mine", None)


def test_a_service_of_this_host_comes_before_one_in_a_job(folder: ServiceFolder) -> None:
    running("mine")
    found = place("mine", None)
    assert (found.url, found.phase, found.reach["headers"]) == ("http://127.0.0.1:8000", "serving", {})


def test_an_url_says_where_it_is(folder: ServiceFolder) -> None:
    assert place("mine", "https://there/v1/").url == "https://there"
    with pytest.raises(NotRunningError, match="corral up"):
        place("other", None)


def test_prometheus_is_sent_where_the_job_tells_its_addresses(folder: ServiceFolder) -> None:
    service = watched("mine")
    assert service.targets.folder == folder.path
    assert (service.shared, service.asks_for_keys, service.makes_certificates) == (True, True, False)
