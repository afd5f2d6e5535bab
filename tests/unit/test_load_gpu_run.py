"""The whole course on loopback endpoints: what is started and measured, and how it goes on after an interruption."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from loadtests.gpu.__main__ import main
from loadtests.gpu.combined import verdicts, whole, write_whole
from loadtests.gpu.deadline import Deadline, OutOfTime
from loadtests.gpu.options import Options, Sides, options_of
from loadtests.gpu.profile import Place, place_of, write_config
from loadtests.gpu.room import Gpu, Room, this_gpu
from loadtests.gpu.serving import PID, ROOT, _wait_for, end_leftovers, environment
from loadtests.gpu.starts import Start, sentence, starts_of, timed
from loadtests.servers import HOST, ServerError, free_ports, process
from tests.unit.load_gpu_fakes import Servers, conductor, kept, options, words


class Hours:
    """A clock that stands still but for what each look at it takes."""

    def __init__(self, look_s: float) -> None:
        self.seconds, self._look_s = 0.0, look_s

    def __call__(self) -> float:
        self.seconds += self._look_s
        return self.seconds


def test_both_models_are_measured_and_reported(tmp_path: Path) -> None:
    asked, servers, said = options(tmp_path), Servers(), list[str]()
    run = conductor(asked, servers, said)
    run.write = write_whole
    assert run.run()
    small, large = asked.llamas
    assert servers.started == [
        "llama-3.2-1b/corral", "llama-3.2-1b/vllm", "llama-3.1-70b/corral", "llama-3.1-70b/vllm",
    ]  # fmt: skip
    assert [each["side"] for each in kept(small, asked, "both")] == ["corral", "vllm"] * 4
    assert [len(kept(large, asked, each)) for each in ("corral-1", "vllm-1")] == [4, 4]
    report = json.loads((tmp_path / "report.json").read_text())
    assert [each["name"] for each in report["run"]["plan"]["sides"]] == ["corral", "vllm"]
    assert {each["point"]["model"] for each in report["ratios"]} == {small.name, large.name}
    assert (tmp_path / "report.html").exists()
    assert "load_format: dummy" in (tmp_path / "report.md").read_text().replace("\\", "")


def test_real_weights_are_measured_in_a_fresh_folder(tmp_path: Path) -> None:
    weights, out = Place(tmp_path / "real"), tmp_path / "run"
    line = f"--dry-run --out {out} --only llama-3.2-1b --concurrency 1 --lengths 32:4 --repeats 1 --max-seconds 10"
    (llama,) = options_of(line.split()).llamas
    write_config(llama, weights)
    asked = options_of([*line.split(), "--weights", f"llama-3.2-1b={weights.model}"])
    assert main(replace(asked, plan=True)) == 0
    said = list[str]()
    assert conductor(asked, Servers(), said).run(), said
    assert len(kept(llama, asked, "both")) == 2
    assert f"source: {weights.model}" in place_of(llama, asked).profile.read_text()


def test_prompts_are_exactly_as_long_as_asked(tmp_path: Path) -> None:
    asked, servers = options(tmp_path, models=("llama-3.2-1b",)), Servers()
    assert conductor(asked, servers, []).run()
    assert {words(body) for body in servers.endpoints["vllm"].measured} == {32}


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    asked, servers, said = options(tmp_path), Servers(), list[str]()
    assert conductor(asked, servers, []).run()
    before = whole(asked)
    assert conductor(asked, servers, said).run()
    assert said == ["llama-3.2-1b: all is measured", "llama-3.1-70b: all is measured"]
    assert len(servers.started) == 4
    assert whole(asked) == before


def test_an_interrupted_run_goes_on_at_other_ports(tmp_path: Path) -> None:
    asked, servers = options(tmp_path, models=("llama-3.2-1b",)), Servers()
    run = conductor(asked, servers, [])
    lines = iter(range(4))

    def interrupt() -> None:
        if next(lines, None) is None:
            raise KeyboardInterrupt

    run._report = lambda **_: interrupt()  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.run()
    (llama,) = asked.llamas
    assert len(kept(llama, asked, "both")) == 4
    assert conductor(asked, servers, []).run()
    found = [(each["point"], each["side"], each["repeat"]) for each in kept(llama, asked, "both")]
    assert len(found) == 8
    assert len({json.dumps(each) for each in found}) == 8
    assert whole(asked).record.ended_because == ""  # type: ignore[union-attr]


def test_it_stops_in_time_and_the_same_command_goes_on(tmp_path: Path) -> None:
    asked, servers, said = options(tmp_path), Servers(), list[str]()
    clock = Hours(look_s=20)
    assert conductor(asked, servers, said, Deadline(at=500, now=clock)).run()
    assert [line for line in said if "the same command goes on with it" in line]
    some = whole(asked)
    assert some is not None
    assert 0 < len(some.measurements) < 16
    assert "no time is left for" in some.record.ended_because
    assert conductor(asked, servers, []).run()
    assert len(whole(asked).measurements) == 16  # type: ignore[union-attr]


def test_without_time_nothing_is_started(tmp_path: Path) -> None:
    asked, servers, said = options(tmp_path), Servers(), list[str]()
    assert conductor(asked, servers, said, Deadline(at=30, now=lambda: 0.0)).run()
    assert servers.started == []
    assert said[0].startswith("llama-3.2-1b: no time is left for the start of corral: it takes about 60 s")
    assert verdicts(asked) == ["nothing was measured"]


def test_of_two_that_take_turns_the_one_behind_comes_first(tmp_path: Path) -> None:
    asked, servers = options(tmp_path, models=("llama-3.1-70b",)), Servers()
    run = conductor(asked, servers, [])
    run.rooms = {"llama-3.1-70b": Room(Sides.CORRAL, "")}
    assert run.run()
    run.rooms = {"llama-3.1-70b": Room(Sides.IN_TURN, "")}
    assert run.run()
    assert servers.started == ["llama-3.1-70b/corral", "llama-3.1-70b/vllm"]
    found = whole(asked)
    assert found is not None
    assert sorted({each.repeat for each in found.measurements}) == [0, 1]


def test_pairs_are_repeats_of_the_whole(tmp_path: Path) -> None:
    asked, servers = options(tmp_path, models=("llama-3.1-70b",), pairs=2), Servers()
    run = conductor(asked, servers, [])
    run.rooms = {"llama-3.1-70b": Room(Sides.IN_TURN, "")}
    assert run.run()
    assert [each.rpartition("/")[2] for each in servers.started] == ["corral", "vllm"] * 2
    found = whole(asked)
    assert found is not None
    assert sorted({each.repeat for each in found.measurements}) == [0, 1, 2, 3]
    assert found.record.plan.repeats == 4


def test_a_server_that_does_not_start_costs_its_model_alone(tmp_path: Path) -> None:
    asked, said = options(tmp_path), list[str]()
    assert not conductor(asked, Servers(broken={"vllm": ServerError("no room on the GPU")}), said).run()
    assert "llama-3.2-1b: no room on the GPU" in said
    (_, large) = asked.llamas
    assert len(kept(large, asked, "corral-1")) == 4
    found = whole(asked)
    assert found is not None
    assert [each for each in found.record.notices if "not measured to its end: no room on the GPU" in each]
    assert conductor(asked, Servers(), []).run()
    assert not [each for each in whole(asked).record.notices if "not measured" in each]  # type: ignore[union-attr]


def test_other_versions_are_not_mixed(tmp_path: Path) -> None:
    asked, said = options(tmp_path, models=("llama-3.2-1b",), repeats=1), list[str]()
    assert conductor(asked, Servers("0.26.0"), []).run()
    asked = replace(asked, repeats=2)
    assert not conductor(asked, Servers("0.29.0"), said).run()
    assert [line for line in said if "was measured on vLLM 0.26.0, and corral is vLLM 0.29.0 now" in line]


def test_another_plan_needs_another_folder(tmp_path: Path) -> None:
    asked, said = options(tmp_path, models=("llama-3.2-1b",), repeats=1), list[str]()
    assert conductor(asked, Servers(), []).run()
    assert not conductor(replace(asked, repeats=2), Servers(), said).run()
    assert [line for line in said if "repeats: 1 there, 2 asked for" in line]


def test_what_does_not_fit_is_left_out_and_told(tmp_path: Path) -> None:
    asked, servers = options(tmp_path), Servers()
    run = conductor(asked, servers, [])
    run.rooms = {**run.rooms, "llama-3.1-70b": Room(None, "it does not fit: 67.7 GiB weights")}
    assert run.run()
    assert len(servers.started) == 2
    notices = whole(asked).record.notices  # type: ignore[union-attr]
    assert [each for each in notices if each.startswith("llama-3.1-70b: not measured to its end: it does not fit")]


def test_starts_are_kept_and_told(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with timed(place, "corral"):
        place.cache.mkdir()
        (place.cache / "compiled").touch()
    with timed(place, "corral"):
        pass
    with pytest.raises(ServerError), timed(place, "vllm"):
        raise ServerError("")
    assert [(each.side, each.warm) for each in starts_of(place)] == [("corral", False), ("corral", True)]
    place.starts.write_text(place.starts.read_text() + '{"side":"vl')
    assert len(starts_of(place)) == 2
    told = [Start(side="corral", seconds=s, at="", warm=w) for s, w in ((74, False), (41, True), (40, True))]
    assert sentence(told, "corral") == (
        "from `corral up` to ready 74 s; 41 s, 40 s with what an earlier start had compiled"
    )
    assert sentence(told, "vllm") == ""


def test_a_deadline_is_shared_and_always_enough_for_the_first() -> None:
    deadline = Deadline(at=100, now=lambda: 0.0)
    assert deadline.share(4).left_s == 25
    assert deadline.share(4, 60).left_s == 60
    assert deadline.share(4, 160).left_s == 100
    assert Deadline.after(None).share(3).left_s == float("inf")
    with pytest.raises(OutOfTime, match=r"no time is left for the start: it takes about 120 s, 100 s are left"):
        deadline.need(120, "the start")


def test_servers_find_this_repository_and_nothing_of_the_callers_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_EDGE__PORT", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    found = environment(Path("/run"))
    assert found["PYTHONPATH"] == f"{ROOT}{os.pathsep}/elsewhere"
    assert found["CUDA_VISIBLE_DEVICES"] == "3"
    assert {name for name in found if name.startswith("CORRAL_")} == {"CORRAL_STATE_DIR"}


def test_a_server_on_loopback_is_asked_past_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request._opener", None)  # it is made once, by the environment of that moment
    monkeypatch.setenv("http_proxy", f"http://{HOST}:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "http.server", str(port), "--bind", HOST, "--directory", str(tmp_path)]
    with process(command, os.environ, tmp_path / "log") as running:
        _wait_for(f"http://{HOST}:{port}/", running, 20)


def test_what_a_killed_run_left_is_ended_and_nothing_else(tmp_path: Path) -> None:
    assert end_leftovers(tmp_path) == []
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as left:
        created = psutil.Process(left.pid).create_time()
        (tmp_path / PID).write_text(json.dumps({"pid": left.pid, "created": created - 5}))
        assert end_leftovers(tmp_path) == []
        assert left.poll() is None
        (tmp_path / PID).write_text(json.dumps({"pid": left.pid, "created": created}))
        assert end_leftovers(tmp_path) == ["a server of vLLM's"]
        assert not psutil.pid_exists(left.pid)
    assert not (tmp_path / PID).exists()


def test_the_gpu_is_what_nvidia_smi_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771, 512'\n")
    smi.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = this_gpu()
    assert found == Gpu("NVIDIA H200", int(0.99 * (143_771 << 20)), 512 << 20)
    smi.write_text(
        "#!/bin/sh\ncase $* in *--id=GPU-5*) echo 'NVIDIA L4, 23034, 0';; *) echo 'NVIDIA H200, 143771, 0';; esac"
    )
    assert (this_gpu() or found).name == "NVIDIA H200"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5, GPU-6")
    assert (this_gpu() or found).name == "NVIDIA L4"
    smi.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert this_gpu() is None


def test_without_a_gpu_it_says_what_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(Options(tmp_path / "out")) == 2
    assert "--dry-run tries the script on a CPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_places_of_a_model(tmp_path: Path) -> None:
    asked = options(tmp_path)
    assert place_of(asked.llamas[0], asked).model == tmp_path / "llama-3.2-1b" / "model"
