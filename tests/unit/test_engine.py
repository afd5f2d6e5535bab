"""Profiles as vLLM's arguments, and what the engine says of itself while it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.metrics import merge_engine_metrics
from deployments.config import ModelSpec
from deployments.engine import engine_arguments, environment, server_arguments
from deployments.progress import log_files, phase_of, read_phase, record_log_files, write_phase

CPU = ModelSpec.model_validate(
    {"id": "m", "source": "/m", "hardware": {"kind": "cpu"}, "kv_cache": "64 MiB", "eager": True}
)
GPU = ModelSpec.model_validate({"id": "m", "source": "a/b", "tensor_parallel": 4, "quantization": "fp8"})


def test_bulk_needs_priorities() -> None:
    assert engine_arguments(CPU)["scheduling_policy"] == "priority"


def test_gpu_arguments() -> None:
    arguments = engine_arguments(GPU)
    assert (arguments["tensor_parallel_size"], arguments["quantization"]) == (4, "fp8")
    assert "gpu_memory_utilization" in arguments
    assert "OMP_NUM_THREADS" not in environment(GPU)


def test_the_profile_has_the_last_word() -> None:
    spec = ModelSpec(id="m", source="/m", engine={"max_num_seqs": 3, "seed": 7}, env={"OMP_NUM_THREADS": "8"})
    assert (engine_arguments(spec)["max_num_seqs"], engine_arguments(spec)["seed"]) == (3, 7)
    assert environment(spec)["OMP_NUM_THREADS"] == "8"


def test_adapters_become_lora_modules() -> None:
    spec = ModelSpec.model_validate({"id": "m", "source": "/m", "lora": {"adapters": {"m-law": "/law"}}})
    arguments = engine_arguments(spec)
    assert arguments["enable_lora"] is True
    assert arguments["lora_modules"] == [{"name": "m-law", "path": "/law"}]
    assert spec.served_ids == ("m", "m-law")


@pytest.mark.parametrize(("adapters", "most", "slots"), [(1, 4, 5), (6, 4, 7)])
def test_one_adapter_slot_stays_empty_on_a_cpu(adapters: int, most: int, slots: int) -> None:
    """vLLM's CPU kernels give the last slot's weights to requests that name no adapter."""
    lora = {"adapters": {f"m-{n}": f"/{n}" for n in range(adapters)}, "max_adapters": most}
    cpu, gpu = (
        ModelSpec.model_validate({"id": "m", "source": "/m", "lora": lora, "hardware": {"kind": kind}})
        for kind in ("cpu", "gpu")
    )
    assert (engine_arguments(cpu)["max_loras"], engine_arguments(gpu)["max_loras"]) == (slots, most)


def test_server_arguments_are_flags() -> None:
    flags = server_arguments(CPU)
    assert "--enforce-eager" in flags
    assert flags[flags.index("--kv-cache-memory-bytes") + 1] == str(64 << 20)
    assert flags[flags.index("--distributed-executor-backend") + 1] == "uni"
    assert "--no-enforce-eager" not in server_arguments(GPU)
    assert all(isinstance(flag, str) for flag in flags)


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("Starting to load model /m...", "loading weights"),
        ("Loading weights took 0.01 seconds", "warming up"),
        ("Dynamo bytecode transform time: 3.1 s", "compiling"),
        ("Enforce eager set, disabling torch.compile and CUDAGraphs.", None),
    ],
)
def test_phases(line: str, phase: str | None) -> None:
    assert phase_of(line) == phase


def test_the_phase_of_a_model_is_kept_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_PROGRESS_DIR", str(tmp_path))
    monkeypatch.setenv("CORRAL_MODEL", "m")
    write_phase("loading weights")
    assert (read_phase("m"), read_phase("other")) == ("loading weights", None)


def test_log_files_of_a_model_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_PROGRESS_DIR", str(tmp_path))
    monkeypatch.setenv("CORRAL_MODEL", "m")
    record_log_files()
    notes = tmp_path / "m.logs"
    notes.write_text(f"{notes.read_text()}{notes}\n")
    assert tmp_path / "m.logs" in log_files(tmp_path, "m")
    assert log_files(tmp_path, "other") == []


TEXT = """# HELP vllm:num_requests_running Running.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 2.0
# HELP vllm:num_requests_created Running.
# TYPE vllm:num_requests_created gauge
vllm:num_requests_created{engine="0"} 1.7e9
# HELP corral_replica_turns_total Turns.
# TYPE corral_replica_turns_total counter
corral_replica_turns_total 3.0
# HELP python_info Python.
# TYPE python_info gauge
python_info 1.0
"""


def test_engine_metrics_name_a_family_once_and_every_replica() -> None:
    merged = merge_engine_metrics({"a": {"x1": TEXT, "x2": TEXT}, "b": {"y1": TEXT}})
    assert merged.count("# TYPE vllm:num_requests_running gauge") == 1
    assert 'vllm:num_requests_running{engine="0",corral_model="a",replica="x2"} 2.0' in merged
    assert 'corral_model="b",replica="y1"' in merged
    assert 'corral_replica_turns_total{model="a",replica="x1"} 3.0' in merged
    assert "_created" not in merged
    assert "python_info" not in merged
