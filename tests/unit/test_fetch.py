"""Staging from a hub that cuts, lies and refuses, over real HTTP on the loopback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from app.fetch import fetch, sources, staged_source
from app.fetch_report import FetchProgress, Report
from app.hub import Damaged, Hub, NoSuchModel, Unreachable, needed
from deployments.pocket import CHECKPOINTS
from slurm.staging import MANIFEST, locked, read_manifest
from tests.unit.fake_hub import BYTES, FILES, LLAMA, WEIGHTS, FakeHub, lies_in, place, spec, stage
from tests.waiting import until

ROOT = Path(__file__).parents[2]


def test_a_model_is_staged_with_what_vllm_needs_and_a_manifest(hub: FakeHub, tmp_path: Path) -> None:
    report = stage(hub, tmp_path)
    assert lies_in(tmp_path) == FILES
    size = sum(map(len, FILES.values()))
    assert (report.state, report.revision, report.folder) == ("fetched", "1" * 40, place(tmp_path))
    assert (report.models, report.files, report.bytes, report.downloaded) == (("m",), 4, size, size)
    manifest = read_manifest(place(tmp_path))
    assert manifest
    hashes = {file.path: file.sha256 for file in manifest.files}
    assert hashes == {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}


def test_a_second_run_asks_the_hub_nothing(hub: FakeHub, tmp_path: Path) -> None:
    stage(hub, tmp_path)
    hub.asked.clear()
    report = stage(hub, tmp_path)
    assert (report.state, report.downloaded, report.files) == ("already complete", 0, 4)
    assert not hub.asked


def test_the_token_goes_to_the_hub_and_not_to_where_it_sends_us(hub: FakeHub, tmp_path: Path) -> None:
    stage(hub, tmp_path)
    tokens = {asked.path.startswith("/cdn/"): asked.token for asked in hub.asked}
    assert tokens == {True: None, False: "Bearer hf_secret"}


def test_a_cut_connection_is_gone_on_with_in_the_same_run(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[WEIGHTS] = ["cut 100000", "cut 50000"]
    report = stage(hub, tmp_path)
    assert hub.ranges() == [None, "bytes=100000-", "bytes=150000-"]
    assert report.downloaded == report.bytes
    assert lies_in(tmp_path) == FILES


def test_a_hub_that_is_busy_is_asked_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[f"resolve {WEIGHTS}"] = ["503", "429"]
    assert stage(hub, tmp_path).state == "fetched"


def test_a_hub_that_says_when_to_come_back_is_not_asked_before(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("slurm.staging.Meter.pause", lambda meter, seconds: waits.append(seconds))
    hub.faults[f"resolve {WEIGHTS}"] = ["429 RateLimit 7", "503 Down soon"]
    assert stage(hub, tmp_path).state == "fetched"
    assert waits == [7, 0.02]


def test_the_next_run_goes_on_from_the_bytes_that_are_there(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[WEIGHTS] = ["cut 100000", *["cut 0"] * 9]
    with pytest.raises(Unreachable, match="login node"):
        stage(hub, tmp_path)
    assert staged_source(LLAMA, tmp_path) is None
    hub.asked.clear()
    hub.faults.clear()
    report = stage(hub, tmp_path)
    assert hub.ranges() == ["bytes=100000-"]
    assert report.downloaded <= report.bytes - 100_000
    assert lies_in(tmp_path) == FILES


def test_a_killed_process_leaves_its_bytes_to_the_next(hub: FakeHub, tmp_path: Path) -> None:
    """A process of its own, so that huggingface_hub reads its environment."""
    hub.faults[WEIGHTS] = ["stall 300000"]
    code = f"""if True:
        from pathlib import Path
        from app.fetch import fetch
        from deployments.config import ModelSpec
        fetch([ModelSpec(id='m', source='{LLAMA}')], Path({str(tmp_path)!r}))"""
    environ = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_mine"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environ)
    parts = place(tmp_path) / ".parts"
    until(lambda: any(part.stat().st_size > 200_000 for part in parts.glob(f"{WEIGHTS}.*")))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert {asked.token for asked in hub.asked} == {"Bearer hf_mine", None}
    hub.asked.clear()
    report = stage(hub, tmp_path)
    assert report.downloaded < report.bytes - 200_000
    assert lies_in(tmp_path) == FILES


def test_a_hub_without_ranges_is_read_from_the_start(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[WEIGHTS] = ["cut 100000", "whole"]
    report = stage(hub, tmp_path)
    assert lies_in(tmp_path) == FILES
    assert report.downloaded == report.bytes + 100_000


@pytest.mark.parametrize("path", [WEIGHTS, "config.json"])
@pytest.mark.parametrize("fault", ["wrong", "short", "long"])
def test_wrong_bytes_are_fetched_once_more(hub: FakeHub, tmp_path: Path, path: str, fault: str) -> None:
    hub.faults[path] = [fault]
    assert stage(hub, tmp_path).state == "fetched"
    assert lies_in(tmp_path) == FILES


@pytest.mark.parametrize("path", [WEIGHTS, "config.json"])
def test_bytes_that_are_wrong_twice_are_an_error_that_names_the_file(hub: FakeHub, tmp_path: Path, path: str) -> None:
    hub.faults[path] = ["wrong"] * 2
    with pytest.raises(Damaged, match=f"{LLAMA}/{path} came twice"):
        stage(hub, tmp_path)
    assert len(hub.ranges(path)) == 2
    assert path not in lies_in(tmp_path)
    assert staged_source(LLAMA, tmp_path) is None


def test_a_wrong_part_of_an_earlier_run_is_dropped(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[WEIGHTS] = ["cut 1000", *["cut 0"] * 9]
    with pytest.raises(Unreachable):
        stage(hub, tmp_path)
    (part,) = (place(tmp_path) / ".parts").glob(f"{WEIGHTS}.*")
    part.write_bytes(b"?" * 1000)
    hub.faults.clear()
    assert stage(hub, tmp_path).state == "fetched"
    assert lies_in(tmp_path) == FILES


def test_verify_finds_what_size_does_not_and_fetches_only_that(hub: FakeHub, tmp_path: Path) -> None:
    stage(hub, tmp_path)
    (place(tmp_path) / WEIGHTS).write_bytes(bytes(len(BYTES)))
    hub.asked.clear()
    assert stage(hub, tmp_path).state == "already complete"
    assert not hub.asked
    report = stage(hub, tmp_path, verify=True)
    assert (report.state, report.downloaded) == ("fetched", len(BYTES))
    assert lies_in(tmp_path) == FILES


def test_verify_needs_no_hub_where_all_is_right(hub: FakeHub, tmp_path: Path) -> None:
    stage(hub, tmp_path)
    told: list[FetchProgress] = []
    (report,) = fetch([spec()], tmp_path, hub=Hub("http://127.0.0.1:1"), verify=True, on_progress=told.append)
    assert report.state == "already complete"
    assert told[-1] == FetchProgress(LLAMA, "check", report.bytes, report.bytes)


def test_a_file_that_was_purged_is_fetched_again_and_the_others_are_not(hub: FakeHub, tmp_path: Path) -> None:
    stage(hub, tmp_path)
    (place(tmp_path) / "config.json").unlink()
    assert staged_source(LLAMA, tmp_path) is None
    report = stage(hub, tmp_path)
    assert (report.state, report.downloaded) == ("fetched", len(FILES["config.json"]))
    assert lies_in(tmp_path) == FILES


def test_what_was_begun_is_ended_with_the_same_commit(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[WEIGHTS] = ["cut 0"] * 9
    with pytest.raises(Unreachable):
        stage(hub, tmp_path)
    hub.faults.clear()
    hub.heads[LLAMA] = "2" * 40
    with pytest.raises(NoSuchModel, match="the commit that was begun with is gone"):
        stage(hub, tmp_path)
    shutil.rmtree(place(tmp_path))
    assert stage(hub, tmp_path).revision == "2" * 40


def test_two_fetches_at_once_wait_for_each_other(hub: FakeHub, tmp_path: Path) -> None:
    told: list[FetchProgress] = []
    reports: list[Report] = []
    lock = place(tmp_path).with_name(".meta--llama.lock")
    with locked(lock):
        second = threading.Thread(target=lambda: reports.append(stage(hub, tmp_path, on_progress=told.append)))
        second.start()
        until(lambda: bool(told))
        assert told[0].doing == "wait"
        assert hub.ranges() == []
    second.join()
    assert reports[0].state == "fetched"
    assert lies_in(tmp_path) == FILES


def test_the_one_who_waited_finds_it_complete(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[WEIGHTS] = ["stall 1000"]
    waiting = threading.Event()
    reports: list[Report] = []

    def note(progress: FetchProgress) -> None:
        if progress.doing == "wait":
            waiting.set()

    first = threading.Thread(target=lambda: reports.append(stage(hub, tmp_path)))
    second = threading.Thread(target=lambda: reports.append(stage(hub, tmp_path, on_progress=note)))
    first.start()
    until(lambda: hub.ranges() != [])
    second.start()
    assert waiting.wait(10)
    hub.free.set()
    first.join()
    second.join()
    assert sorted(report.state for report in reports) == ["already complete", "fetched"]
    assert hub.ranges() == [None, "bytes=1000-"]


def test_progress_rises_to_the_whole(hub: FakeHub, tmp_path: Path) -> None:
    told: list[FetchProgress] = []
    report = stage(hub, tmp_path, on_progress=told.append)
    done = [progress.done for progress in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, report.bytes)
    assert {progress.total for progress in told} == {report.bytes}
    assert told[-1].doing == "download"


def test_a_failing_callback_ends_the_fetch_and_it_can_go_on(hub: FakeHub, tmp_path: Path) -> None:
    def interrupt(progress: FetchProgress) -> None:
        if progress.done > 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(hub, tmp_path, on_progress=interrupt)
    report = stage(hub, tmp_path)
    assert 0 < report.downloaded < report.bytes
    assert lies_in(tmp_path) == FILES


def test_adapters_and_several_models_are_staged_and_others_left_alone(hub: FakeHub, tmp_path: Path) -> None:
    hub.models["me/adapter"] = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"a"}
    adapters = {"tuned": "me/adapter", "mine": str(tmp_path), "gone": "./gone"}
    models = [
        spec(lora={"adapters": adapters}),
        spec(model="twin"),
        spec("pocket:pocket-1b", "p"),
        spec("s3://bucket/llama", "s"),
    ]
    reports = {report.source: report for report in fetch(models, tmp_path, hub=hub.hub())}
    assert {source: report.state for source, report in reports.items()} == {
        LLAMA: "fetched", "me/adapter": "fetched", str(tmp_path): "local", "./gone": "local",
        "pocket:pocket-1b": "local", "s3://bucket/llama": "left alone",
    }  # fmt: skip
    assert reports[LLAMA].models == ("m", "twin")
    assert reports["pocket:pocket-1b"].folder == CHECKPOINTS / "pocket-1b"
    assert (reports["./gone"].reason, reports[str(tmp_path)].reason) == ("there is no such folder", "")
    assert "connection" in reports["s3://bucket/llama"].reason
    assert staged_source("me/adapter", tmp_path) == tmp_path / "weights" / "me--adapter"


def test_who_uses_a_source() -> None:
    models = [spec(lora={"adapters": {"a": "me/a"}}), spec(model="n")]
    assert sources(models) == {LLAMA: ("m", "n"), "me/a": ("a",)}


@pytest.mark.parametrize("source", ["./a", "~/a", "/a/b", "pocket:pocket-1b", "s3://a/b", "../a", "a"])
def test_only_a_hub_id_is_staged(source: str, tmp_path: Path) -> None:
    assert staged_source(source, tmp_path) is None


@dataclass(frozen=True)
class Sibling:
    rfilename: str


@pytest.mark.parametrize(
    ("there", "kept"),
    [
        ("model.safetensors pytorch_model.bin model.pt config.json", "model.safetensors config.json"),
        ("pytorch_model.bin training_args.bin tokenizer.model", "pytorch_model.bin tokenizer.model"),
        ("checkpoint-5/model.safetensors model.safetensors model.safetensors.index.json",
         "model.safetensors model.safetensors.index.json"),
        ("optimizer.pt model.safetensors chat_template.jinja LICENSE", "model.safetensors chat_template.jinja LICENSE"),
        (f"{MANIFEST} adapter_model.safetensors .cache/x.json", "adapter_model.safetensors"),
    ],
)  # fmt: skip
def test_one_format_of_weights_is_needed(there: str, kept: str) -> None:
    assert [each.rfilename for each in needed(map(Sibling, there.split()))] == kept.split()


def test_reports_as_json_and_as_lines(hub: FakeHub, tmp_path: Path) -> None:
    report = stage(hub, tmp_path)
    data = json.loads(json.dumps(report.as_dict()))
    assert (data["folder"], data["state"], data["models"]) == (str(place(tmp_path)), "fetched", ["m"])
    line = replace(report, models=("m", "n"), seconds=7.2).line()
    assert line == f"m, n: meta/llama: fetched, 4 files, 0.5 MiB, 0.5 MiB of it now in 7 s, in {place(tmp_path)}"
    assert stage(hub, tmp_path).line().startswith("m: meta/llama: already complete, 4 files, 0.5 MiB, in /")
    local = fetch([spec("pocket:pocket-1b")], tmp_path)[0]
    assert local.line() == "m: pocket:pocket-1b: local"
