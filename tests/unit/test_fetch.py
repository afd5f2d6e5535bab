"""Staging from a hub that cuts, lies and refuses, over real HTTP on the loopback."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from app.fetch import fetch, sources, staged_source
from app.fetch_report import FetchProgress, Report
from app.hub import Damaged, FetchError, Hub, NoAccess, NoSuchModel, Unreachable, needed
from deployments.config import ModelSpec
from deployments.pocket import CHECKPOINTS
from slurm.staging import MANIFEST, NoRoom, StagingError, locked, read_manifest

ROOT = Path(__file__).parents[2]
LLAMA = "meta/llama"
WEIGHTS = "model-00001-of-00001.safetensors"
BYTES = bytes(range(256)) * 2048
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "1_Pooling/config.json": b"{}",
    "empty.txt": b"",
    WEIGHTS: BYTES,
}
NOISE = {"pytorch_model.bin": b"b", "original/consolidated.00.pth": b"p", "a.gguf": b"g", "onnx/m.onnx": b"o",
         "flax_model.msgpack": b"f", "tf_model.h5": b"t", ".gitattributes": b"x"}  # fmt: skip


@dataclass
class Asked:
    """One request that the hub got."""

    path: str
    range: str | None
    token: str | None


@dataclass
class FakeHub:
    """A hub in memory. `faults` has for a file what befalls the next requests for it, in order.

    Faults: `cut N` bytes then hang up, `stall N` bytes then say nothing, `wrong` bytes, `short`, `whole` (no ranges),
    or a status, an error code and a Retry-After: `403 GatedRepo`, `429 RateLimit 7`.
    """

    models: dict[str, dict[str, bytes]] = field(default_factory=lambda: {LLAMA: FILES | NOISE})
    gated: bool = False
    heads: dict[str, str] = field(default_factory=dict)
    lies: dict[str, str] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    endpoint: str = ""
    free: threading.Event = field(default_factory=threading.Event)

    def hub(self, **changes: Any) -> Hub:
        return Hub(**{"endpoint": self.endpoint, "token": "hf_secret", "pause_s": 0.01, "timeout_s": 5, **changes})

    def head(self, model: str) -> str:
        return self.heads.get(model, "1" * 40)

    def sibling(self, path: str, data: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        lfs = {"sha256": self.lies.get(path) or hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        large = {"lfs": lfs} if path.endswith((".safetensors", ".bin")) else {}
        return {"rfilename": path, "size": len(data), "blobId": self.lies.get(path) or blob, **large}

    def ranges(self, path: str = WEIGHTS) -> list[str | None]:
        return [asked.range for asked in self.asked if asked.path == f"/cdn/{LLAMA}/{path}"]


class Handler(BaseHTTPRequestHandler):
    """Listing, auth-check, and files: the hub redirects to a host of another name, as to its CDN."""

    server: Server

    def do_GET(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.asked.append(Asked(path, self.headers["range"], self.headers["authorization"]))
        if path.startswith("/cdn/"):
            owner, name, file = path.removeprefix("/cdn/").split("/", 2)
            self._file(hub, hub.models[f"{owner}/{name}"][file], file)
        elif path.startswith("/api/models/"):
            self._api(hub, *path.removeprefix("/api/models/").split("/"))
        else:
            self._redirect(hub, path)

    def _api(self, hub: FakeHub, owner: str, name: str, *rest: str) -> None:
        model = f"{owner}/{name}"
        if fault := self._fault(hub, model):
            self._refuse(*fault.split())
        elif model not in hub.models:
            self._refuse("401", "RepoNotFound")
        elif rest == ("auth-check",):
            self._refuse("403", "GatedRepo")
        elif rest[:1] == ("revision",) and rest[1] != hub.head(model):
            self._refuse("404", "RevisionNotFound")
        else:
            siblings = [hub.sibling(path, data) for path, data in hub.models[model].items()]
            gated = "manual" if hub.gated else False
            info = {"id": model, "sha": hub.head(model), "siblings": siblings, "gated": gated}
            self._send(200, json.dumps(info).encode())

    def _redirect(self, hub: FakeHub, path: str) -> None:
        model, _, rest = path.removeprefix("/").partition("/resolve/")
        file = rest.partition("/")[2]
        fault = self._fault(hub, f"resolve {file}")
        if fault:
            self._refuse(*fault.split())
        else:
            place = f"http://localhost:{self.server.server_port}/cdn/{model}/{file}"
            self._send(302, b"", {"location": place})

    def _file(self, hub: FakeHub, data: bytes, path: str) -> None:
        kind, _, count = self._fault(hub, path).partition(" ")
        start = int(self.headers["range"].removeprefix("bytes=").removesuffix("-")) if self.headers["range"] else 0
        data = {"wrong": bytes(len(data)), "short": data[:-1], "long": data + b"!"}.get(kind, data)
        if start and start >= len(data):
            self._send(416, b"")
            return
        start = 0 if kind == "whole" else start
        stop = start + int(count) if count else len(data)
        self._send(206 if start else 200, data[start:stop], {"content-length": str(len(data) - start)})
        if kind == "stall":
            hub.free.wait(20)

    def _fault(self, hub: FakeHub, what: str) -> str:
        faults = hub.faults.get(what) or [""]
        return faults.pop(0)

    def _refuse(self, status: str, code: str = "", retry_after: str = "") -> None:
        headers = {"x-error-code": code, "retry-after": retry_after}
        self._send(int(status), b"{}", {name: value for name, value in headers.items() if value})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: FakeHub) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are meant to."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeHub()
    server = Server(fake)
    fake.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    fake.free.set()
    server.shutdown()
    thread.join()
    server.server_close()


def spec(source: str = LLAMA, model: str = "m", **changes: Any) -> ModelSpec:
    return ModelSpec(id=model, source=source, **changes)


def stage(hub: FakeHub, folder: Path, **changes: Any) -> Report:
    (report,) = fetch([spec()], folder, hub=hub.hub(), **changes)
    return report


def place(folder: Path) -> Path:
    return folder / "weights" / "meta--llama"


def lies_in(folder: Path) -> dict[str, bytes]:
    paths = [path for path in place(folder).rglob("*") if path.is_file() and path.name != MANIFEST]
    return {str(path.relative_to(place(folder))): path.read_bytes() for path in paths}


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


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


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
