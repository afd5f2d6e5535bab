"""`corral plan --users` as typed: what it prints, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from app.capacity.curve import MeasuredCurve
from app.capacity.errors import CapacityError
from app.capacity.question import Measured
from app.capacity.replica import Bounds
from app.capacity.subject import on_gpu
from app.settings import load_settings
from loadtests.gpu.llamas import LLAMAS
from loadtests.gpu.options import Options
from loadtests.gpu.profile import BATCHED_TOKENS, profile_of
from loadtests.records import Limits, Machine
from tests.unit.capacity import MACHINE, measured_run, write_run
from tests.unit.conftest import Corral

CURVE = MeasuredCurve((1, 8, 32), (0.004, 0.006, 0.012), prompt_s=2e-5, request_s=0.003)
SHORT = "--input-tokens 64 --output-tokens 32"
GPU_PROFILE = """
models:
  small: {source: meta-llama/Llama-3.2-1B-Instruct, hardware: {gpu_type: A100}, context_tokens: 4096}
  large:
    source: meta-llama/Llama-3.1-70B-Instruct
    tensor_parallel: 4
    hardware: {gpu_type: H100}
    context_tokens: 4096
"""
CLUSTER = """
cluster:
  walltime: "1:00:00"
  shared: /tmp
  groups: [{name: big, gpus: 8, gpu_type: h100}]
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpus.yaml").write_text(GPU_PROFILE)
    (tmp_path / "cluster.yaml").write_text(GPU_PROFILE + CLUSTER)
    (tmp_path / "cpu.yaml").write_text(
        "models: {small: {source: 'pocket:pocket-1b', hardware: {kind: cpu}, kv_cache: 64 MiB}}"
    )


@pytest.fixture
def curve(tmp_path: Path) -> Path:
    return write_run(measured_run(CURVE, (1, 8, 32), model="small", lengths=(64, 32)), tmp_path / "run")


# --- by data sheets ---


def test_a_plan_by_data_sheets(corral: Corral) -> None:
    code, out, err = corral(f"plan -p gpus.yaml --users 200 {SHORT} --think 10")
    assert (code, err) == (0, "")
    assert out.startswith("200 users: 1 A100 on 1 node and 4 H100 on 1 node, for ")
    assert "Limits of the 95th percentiles: TTFT 1000 ms, ITL 50 ms; no request refused." in out
    lines = [line.split() for line in out.splitlines()]
    assert ["small", "100"] in [line[:2] for line in lines]
    assert [line[:4] for line in lines if line[:1] == ["200"]] == [
        ["200", "users:", "1", "A100"],
        ["200", "5", "2", "120"],
    ]
    assert "roofline" in out
    assert "GPUs of a node: 4 A100, 4 H100." in out
    assert "data sheets (A100, H100: of the SXM module; the PCIe card of that name is slower), which no engine" in out
    assert "SXM" not in corral(f"plan -p gpus.yaml --users 5 {SHORT} --share small=1 --gpu L4")[1]


def test_nodes_as_the_cluster_has_them(corral: Corral) -> None:
    command = f"--users 20 {SHORT} --share large=1"
    assert "GPUs of a node: 8 H100." in corral(f"plan -p cluster.yaml {command}")[1]
    assert "GPUs of a node: 2 H100." in corral(f"plan -p cluster.yaml {command} --gpus-per-node 2")[1]


def test_json_has_the_whole_answer(corral: Corral) -> None:
    code, out, _ = corral(f"plan -p gpus.yaml --users 50 {SHORT} --json --e2e-ms 9000 --arrive 60")
    found = json.loads(out)
    assert code == 0
    assert set(found) == {"users", "limits_p95", "plan", "growth", "from_cold", "check", "assumed", "change"}
    assert found["limits_p95"] == {"ttft_ms": 1000, "itl_ms": 50, "e2e_ms": 9000}
    assert [each["users"] for each in found["growth"]] == [1, 10, 50]
    models = {each["model"]: each for each in found["plan"]["models"]}
    assert models["small"]["users"] + models["large"]["users"] == 50
    assert found["plan"]["gpus"] == models["small"]["gpus"] + models["large"]["gpus"]
    assert models["small"]["ttft_p95_ms"] < 1000
    assert set(found["from_cold"]) == {"small", "large"}
    assert Limits(**found["limits_p95"])


def test_all_models_on_another_gpu(corral: Corral) -> None:
    out = corral(f"plan -p gpus.yaml --users 4 {SHORT} --gpu H200")[1]
    assert out.startswith("4 users: 5 H200 on 2 nodes")


def test_the_same_seed_is_the_same_plan(corral: Corral) -> None:
    command = f"plan -p gpus.yaml --users 9 {SHORT} --share small=1 --json"
    assert corral(command) == corral(command)
    assert corral(command) != corral(f"{command} --seed 7")


def test_a_hundred_thousand_users(corral: Corral) -> None:
    options = "--share small=1 --think 60 --input-tokens 32 --output-tokens 8 --arrive 10 --cold-start 1 --json"
    code, out, _ = corral(f"plan -p gpus.yaml --users 100000 {options}")
    found = json.loads(out)
    assert code == 0
    assert [each["users"] for each in found["growth"]] == [1, 10, 100, 1000, 10_000, 100_000]
    gpus = [each["gpus"] for each in found["growth"]]
    assert gpus == sorted(gpus)
    assert found["plan"]["requests_per_s"] == pytest.approx(100_000 / 60, rel=0.03)
    assert found["change"]["models"]["small"]["autoscaling"]["max_replicas"] == gpus[-1]


def test_without_users_it_is_the_plan_it_was(corral: Corral) -> None:
    out = corral("plan -p gpus.yaml")[1]
    assert "5 GPUs" not in out
    assert "H100: 4 GPUs on 1 nodes to serve every model" in out


# --- by a measured curve ---


def test_a_plan_by_a_measured_curve(corral: Corral, curve: Path) -> None:
    code, out, err = corral(f"plan -p cpu.yaml --users 400 {SHORT} --curve {curve} --think 2 --itl-ms 20")
    assert (code, err) == (0, "")
    assert "hosts, for" in out
    assert "the engine as measured" in out or "sequences at once" in out or "prompts" in out
    assert "small: no replica runs more than 32 sequences at once, for more were not measured" in out
    table = [line.split() for line in out.splitlines() if "error" in line]
    assert [line[:5] for line in table] == [["small,", "3", "points:", "error,", kind] for kind in ("median", "worst")]
    assert all(len(line) == 9 for line in table)
    assert "one replica behind the endpoint" in out


def test_the_check_is_in_the_json(corral: Corral, curve: Path) -> None:
    found = json.loads(corral(f"plan -p cpu.yaml --users 5 {SHORT} --curve {curve} --json")[1])
    points = found["check"][0]["points"]
    assert [point["concurrency"] for point in points] == [1, 8, 32]
    assert all(abs(point["errors"]["throughput"]) < 0.2 for point in points)
    assert 0 <= found["check"][0]["median"]["throughput"] <= abs(found["check"][0]["worst"]["throughput"])


@pytest.mark.parametrize(
    ("engine", "options", "said"),
    [
        (
            {"hardware": {"gpu_type": "H200"}},
            "",
            "measured with hardware.gpu_type H200, and is to be planned with A100",
        ),
        ({"hardware": {"gpu_type": "H200"}}, "--gpu H200", None),
        ({"hardware": {"kind": "cpu"}}, "", "measured with hardware.kind cpu, and is to be planned with gpu"),
        ({"tensor_parallel": 2, "hardware": {"gpu_type": "A100"}}, "", "measured with tensor_parallel 2"),
        (
            {"hardware": {"gpu_type": "A100"}, "autoscaling": {"max_replicas": 2}},
            "",
            "up to 2 replicas at its address",
        ),
        ({"hardware": {"gpu_type": "A100"}, "engine": {"max_num_seqs": 64}}, "", None),
        (
            {"hardware": {"gpu_type": "A100"}, "eager": True},
            "",
            "engine.enforce_eager True, and is to be planned with False",
        ),
        (
            {"hardware": {"gpu_type": "A100"}, "engine": {"kv_cache_dtype": "fp8", "enforce_eager": False}},
            "",
            "measured with engine.kv_cache_dtype fp8, and is to be planned with unset",
        ),
        ({"hardware": {"gpu_type": "A100"}, "engine": {"hf_token": "(not told)"}}, "", None),
        ("what a later version writes", "", None),
    ],
)
def test_a_run_of_another_engine_is_refused(
    engine: object, options: str, said: str | None, corral: Corral, tmp_path: Path
) -> None:
    run = measured_run(CURVE, (1, 8), model="small", lengths=(64, 32))
    record = run.record.model_copy(update={"configuration": {"models": {"small": engine}}})
    folder = write_run(replace(run, record=record), tmp_path / "other")
    code, _, err = corral(f"plan -p gpus.yaml --users 5 {SHORT} --curve {folder} --share small=1 {options}")
    assert code == (0 if said is None else 3)
    assert (said or "") in err


def gpu_run(folder: Path, *, machine: Machine) -> tuple[Path, Path]:
    """As loadtests.gpu keeps a stint, and its profile."""
    profile = profile_of([LLAMAS["llama-3.2-1b"]], Options(folder))
    profile["models"]["llama-3.2-1b"]["source"] = "meta-llama/Llama-3.2-1B-Instruct"
    path = folder / "profile.yaml"
    path.write_text(yaml.safe_dump(profile))
    run = measured_run(CURVE, (1, 8), model="llama-3.2-1b", lengths=(64, 32), machine=machine)
    configuration = {"profile": profile, "engine_arguments": [], "placed": "alone"}
    record = run.record.model_copy(update={"configuration": configuration})
    return path, write_run(replace(run, record=record), folder / "run")


@pytest.mark.parametrize(("gpu", "same_machine", "code"), [("L4", True, 3), ("H200", True, 0), ("L4", False, 0)])
def test_a_run_on_a_gpu_is_for_that_gpu(
    gpu: str, same_machine: bool, code: int, corral: Corral, tmp_path: Path
) -> None:
    """Its profile names no type of GPU; the machine does, if the client was on it too."""
    machine = Machine(cpu="a CPU", cores=16, memory_gib=128, gpus=("NVIDIA H200, 140 GiB",), same_machine=same_machine)
    profile, folder = gpu_run(tmp_path, machine=machine)
    found, _, err = corral(f"plan -p {profile} --users 5 {SHORT} --curve {folder} --gpu {gpu}")
    assert found == code
    said = (
        "llama-3.2-1b was measured on NVIDIA H200, 140 GiB, and is to be planned on L4: measure it there, or plan with"
    )
    assert (said in err) == (code == 3)


def test_a_run_on_a_gpu_tells_its_engine(tmp_path: Path) -> None:
    profile, folder = gpu_run(tmp_path, machine=MACHINE)
    (spec,) = load_settings(str(profile), {}).specs
    planned = on_gpu(spec, "L4").model_copy(update={"engine": {"max_num_batched_tokens": 512}, "max_sequences": 4})
    measured = Measured.read(folder)
    measured.require_same(planned)
    assert measured.bounds(planned, 1000) == Bounds(256, 1000, BATCHED_TOKENS, 512)
    with pytest.raises(CapacityError, match="measured with dtype bfloat16"):
        measured.require_same(planned.model_copy(update={"dtype": "float16"}))
    with pytest.raises(CapacityError, match=r"engine\.enable_prefix_caching unset, and is to be planned with False"):
        measured.require_same(planned.model_copy(update={"engine": {"enable_prefix_caching": False}}))


def test_models_on_gpus_and_cpus(corral: Corral, tmp_path: Path) -> None:
    """The first user asks a model on a CPU: a row without GPUs among rows with some."""
    folder = write_run(measured_run(CURVE, (1, 8), model="aa", lengths=(64, 32)), tmp_path / "run")
    lone = measured_run(CURVE, (1, 8), model="small", lengths=(64, 32))
    with (folder / "measurements.jsonl").open("a") as lines:
        lines.writelines(each.model_dump_json() + "\n" for each in lone.measurements)
    cpu = "models:\n  aa: {source: 'pocket:pocket-1b', hardware: {kind: cpu}, kv_cache: 64 MiB}"
    (tmp_path / "both.yaml").write_text(GPU_PROFILE.replace("models:", cpu, 1))
    code, out, _ = corral(f"plan -p both.yaml --users 20 {SHORT} --curve {folder} --share aa=1,small=1")
    assert code == 0
    assert out.startswith("20 users: 1 host and 1 A100 on 1 node")
    assert ["1", "0", "1", "0", "0", "1", "-"] in [line.split() for line in out.splitlines()]


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ("--users 0", 2, "--users"),
        ("--users 10000001", 2, "--users"),
        ("--users x", 2, "--users"),
        ("--users 5 --ttft-ms 0", 2, "--ttft-ms"),
        ("--users 5 --itl-ms nan", 2, "--itl-ms"),
        ("--users 5 --think inf", 2, "--think"),
        ("--users 5 --think -1", 2, "--think"),
        ("--users 5 --gpus-per-node 0", 2, "--gpus-per-node"),
        ("--users 5 --length 100", 2, "--length is not for --users"),
        ("--gpu H100 --share small=1", 2, "--gpu, --share: only with --users"),
        ("--users 5 --gpu H1000", 3, "--gpu 'H1000' is not known here (did you mean H100?); there are T4"),
        ("--users 5 --gpu RTX-PRO-6000 --share small=1", 3, "the speed of RTX-PRO-6000 is not known here"),
        ("--users 5 --gpu L4", 3, "large: 32.9 GiB weights"),
        ("--users 5 --input-tokens many", 3, "--input-tokens 'many': a number of tokens from 1 on is wanted"),
        ("--users 5 --output-tokens 0", 3, "--output-tokens '0'"),
        ("--users 5 --output-tokens 9:gamma", 3, "'gamma' is no distribution of lengths; there are fixed, uniform"),
        ("--users 5 --input-tokens 9:uniform:7", 3, "uniform has a spread from 0 to 1"),
        ("--users 5 --input-tokens 4000", 3, "together more than the context_tokens 4096 of small"),
        ("--users 5 --share tiny=1", 3, "no model 'tiny' chats in this profile; small, large do"),
        ("--users 5 --curve nowhere", 3, "--curve: nowhere holds no run"),
        ("--users 5 --ttft-ms 1", 3, "no number of replicas keeps TTFT p95 at 1 ms: the best possible is"),
    ],
)
def test_what_is_wrong_is_said(options: str, code: int, said: str, corral: Corral) -> None:
    found, out, err = corral(f"plan -p gpus.yaml {options}")
    assert (found, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def test_a_cpu_has_no_data_sheet(corral: Corral) -> None:
    code, _, err = corral("plan -p cpu.yaml --users 5")
    assert code == 3
    assert "small runs on a CPU, which has no data sheet here: measure it with `corral bench`" in err


def test_a_model_that_was_not_measured(corral: Corral, curve: Path) -> None:
    code, _, err = corral(f"plan -p gpus.yaml --users 5 {SHORT} --curve {curve}")
    assert code == 3
    assert "has no curve of large" in err
    assert corral(f"plan -p gpus.yaml --users 5 {SHORT} --curve {curve} --share small=1")[0] == 0


def test_longer_requests_than_measured(corral: Corral, curve: Path) -> None:
    code, _, err = corral(f"plan -p cpu.yaml --users 5 --curve {curve} --input-tokens 500 --output-tokens 32")
    assert code == 3
    assert "small was measured with 64 input and 32 output tokens" in err


def test_a_herd_that_only_embeds(corral: Corral, tmp_path: Path) -> None:
    (tmp_path / "embed.yaml").write_text("models: {e: {source: me/e, task: embed, hardware: {gpu_type: A100}}}")
    code, _, err = corral("plan -p embed.yaml --users 5")
    assert code == 3
    assert "no model of this profile chats" in err
