"""What a fetch cannot do is told in one line with the next step, before the first byte where it can be known."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from app.fetch import fetch, staged_source
from app.hub import FetchError, Hub, NoAccess, NoSuchModel, Unreachable
from slurm.staging import NoRoom, StagingError
from tests.unit.fake_hub import BYTES, FILES, LLAMA, WEIGHTS, FakeHub, spec, stage

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("what", "fault", "kind", "says"),
    [
        (LLAMA, "403 GatedRepo", NoAccess, "meta/llama is gated: accept its licence at http.*/meta/llama.*HF_TOKEN"),
        (LLAMA, "401", NoAccess, "the hub refuses meta/llama .401.: set HF_TOKEN"),
        (LLAMA, "404 RepoNotFound", NoSuchModel, "the hub shows no meta/llama: check the id"),
        (LLAMA, "500", Unreachable, "answers 500 for meta/llama: try again later"),
        (f"resolve {WEIGHTS}", "403 GatedRepo", NoAccess, "meta/llama is gated: accept its licence"),
        (f"resolve {WEIGHTS}", "403", NoAccess, f"refuses meta/llama/{WEIGHTS} .403.: set HF_TOKEN"),
        (f"resolve {WEIGHTS}", "404 EntryNotFound", NoSuchModel, f"shows no meta/llama/{WEIGHTS}"),
    ],
)
def test_a_refusal_says_what_to_do(
    hub: FakeHub, tmp_path: Path, what: str, fault: str, kind: type[FetchError], says: str
) -> None:
    hub.faults[what] = [fault]
    with pytest.raises(kind, match=says) as caught:
        stage(hub, tmp_path)
    assert "\n" not in str(caught.value)
    assert staged_source(LLAMA, tmp_path) is None


def test_a_gated_model_is_refused_before_another_is_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    hub.gated = True
    with pytest.raises(NoAccess, match="is gated"):
        fetch([spec()], tmp_path, hub=hub.hub())
    assert not (tmp_path / "weights").exists()
    assert [asked.path for asked in hub.asked] == [f"/api/models/{LLAMA}", f"/api/models/{LLAMA}/auth-check"]


def test_no_such_model(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(NoSuchModel, match="shows no meta/nothing"):
        fetch([spec(), spec("meta/nothing", "n")], tmp_path, hub=hub.hub())
    assert not (tmp_path / "weights").exists()


def test_no_network_is_told_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:1 does not answer .*login node"):
        fetch([spec()], tmp_path, hub=Hub("http://127.0.0.1:1"))


def test_the_hub_turned_off_is_told(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE is set"):
        stage(hub, tmp_path)


def test_room_is_looked_for_before_the_first_byte(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=len(BYTES))
    monkeypatch.setattr("slurm.staging.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(NoRoom, match=r"0\.5 MiB are needed, 0\.5 MiB are free"):
        stage(hub, tmp_path)
    assert hub.ranges() == []


def test_what_is_there_already_needs_no_room(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults[WEIGHTS] = ["cut 1000", *["cut 0"] * 9]
    with pytest.raises(Unreachable):
        stage(hub, tmp_path)
    hub.faults.clear()
    usage = shutil.disk_usage(tmp_path)._replace(free=len(BYTES) - 500)
    monkeypatch.setattr("slurm.staging.shutil.disk_usage", lambda folder: usage)
    assert stage(hub, tmp_path).state == "fetched"


def test_a_disk_that_fills_up_is_told(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("app.download.os.fsync", full)
    with pytest.raises(NoRoom, match="the disk, or your quota on it, is full"):
        stage(hub, tmp_path)


def test_a_folder_that_is_none_is_told(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("")
    with pytest.raises(StagingError, match=r"weights.*(File exists|Not a directory)"):
        stage(hub, tmp_path)


def test_a_model_with_no_weights_for_vllm_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.models[LLAMA] = {"a.gguf": b"g", "config.json": b"{}"}
    with pytest.raises(FetchError, match="has no weights that vLLM reads"):
        stage(hub, tmp_path)


@pytest.mark.parametrize("path", ["../evil.json", "/etc/evil.json", "a/../../evil.json"])
def test_a_path_out_of_the_folder_is_refused(hub: FakeHub, tmp_path: Path, path: str) -> None:
    hub.models[LLAMA] = FILES | {path: b"{}"}
    with pytest.raises(FetchError, match="is no path inside a model's folder"):
        stage(hub, tmp_path)
    assert hub.ranges() == []
