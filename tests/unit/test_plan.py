from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.fit import ModelPlan, Site, gib, kv_per_token, measure, weights_per_worker
from app.gpus import GIB, GPUS
from app.nearest import apply_change, nearest_change
from app.plan import PlanError, plan, this_host
from app.settings import Settings, load_settings
from app.shapes import KNOWN, LLAMA_8B, LLAMA_70B, Shape, known_shape, shape_from_config, shape_of
from deployments.config import ModelSpec
from deployments.pocket import CHECKPOINTS, SIZES


def spec(gpu: str | None = "H100", source: str = "meta-llama/Llama-3.1-8B-Instruct", **keys: Any) -> ModelSpec:
    hardware = {"kind": "gpu", "gpu_type": gpu} if gpu else {"kind": "cpu"}
    return ModelSpec.model_validate({"id": "m", "source": source, "dtype": "bfloat16", "hardware": hardware, **keys})


def llama_70b(gpu: str = "H100", **keys: Any) -> ModelSpec:
    return spec(gpu, "meta-llama/Llama-3.1-70B-Instruct", **{"context_tokens": 8192, **keys})


def measured(model: ModelSpec, length: int | None = None, site: Site | None = None) -> ModelPlan:
    return measure(model, shape_of(model.source), site or Site(), length)


def profile(*models: ModelSpec, **sections: Any) -> Settings:
    return Settings(models={model.id: model for model in models}, **sections)


# --- shapes ---


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # as published with the checkpoints
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.2-3b", 3_212_749_824),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("smollm2-135m", 134_515_008),
        ("smollm2-360m", 361_821_120),
        ("tinyllama-1.1b-chat-v1.0", 1_100_048_384),
    ],
)
def test_parameters_of_known_shapes(name: str, parameters: int) -> None:
    assert KNOWN[name].parameters == parameters


@pytest.mark.parametrize("size", SIZES)
def test_parameters_of_pocket_checkpoints(size: str) -> None:
    file = CHECKPOINTS / size / "model.safetensors"
    if not file.is_file():
        pytest.skip("not trained yet")
    with file.open("rb") as weights:
        header = json.loads(weights.read(struct.unpack("<Q", weights.read(8))[0]))
    stored = sum(_count(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    shape = shape_of(str(CHECKPOINTS / size))
    assert shape is not None
    assert shape.parameters == stored


def _count(dimensions: list[int]) -> int:
    total = 1
    for size in dimensions:
        total *= size
    return total


def test_hub_names_are_known_by_any_owner() -> None:
    assert known_shape("unsloth/Llama-3.2-1B-Instruct") == KNOWN["llama-3.2-1b"]
    fp8 = known_shape("RedHatAI/Meta-Llama-3.1-70B-Instruct-FP8-dynamic")
    assert fp8 is not None
    assert (fp8.quantization, fp8.layers) == ("fp8", 80)


def test_shape_from_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub/models--me--llama/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text((CHECKPOINTS / "pocket-1b/config.json").read_text())
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert shape_of("me/llama") == shape_of(str(CHECKPOINTS / "pocket-1b"))
    assert shape_of("me/other") is None


def test_other_architectures_and_broken_files_are_not_counted(tmp_path: Path) -> None:
    assert shape_from_config({"model_type": "bert"}) is None
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert shape_of(str(tmp_path)) is None


# --- figures worked by hand ---


def test_kv_cache_of_one_token() -> None:
    assert kv_per_token(spec(), LLAMA_8B) == 131_072  # 2 * 32 layers * 8 heads * 128 * 2 bytes
    assert kv_per_token(llama_70b(tensor_parallel=4), LLAMA_70B) == 81_920
    assert kv_per_token(llama_70b(tensor_parallel=16), LLAMA_70B) == 40_960  # one KV head each, repeated
    assert kv_per_token(llama_70b(pipeline_parallel=2), LLAMA_70B) == 163_840
    assert kv_per_token(spec(engine={"kv_cache_dtype": "fp8"}), LLAMA_8B) == 65_536


def test_weights() -> None:
    assert weights_per_worker(spec(), LLAMA_8B) == 2 * LLAMA_8B.parameters
    assert weights_per_worker(spec(dtype="float32"), LLAMA_8B) == 4 * LLAMA_8B.parameters
    fp8 = weights_per_worker(llama_70b(quantization="fp8"), LLAMA_70B)
    assert fp8 == pytest.approx(72.7e9, rel=0.002)  # 68.45e9 matrices at 1 byte, 2.1e9 embeddings at 2
    assert weights_per_worker(llama_70b(tensor_parallel=4), LLAMA_70B) == pytest.approx(141.1e9 / 4, rel=0.001)


def test_8b_on_a_small_a100() -> None:
    plan_8b = measured(spec("A100-40G", context_tokens=8192))
    assert plan_8b.fits
    # 0.9 * 39.3 - 14.96 - 2 = 18.41 GiB; / 128 KiB = 150,834, in whole blocks of 16 tokens
    assert plan_8b.tokens == 150_832
    assert plan_8b.sequences == 18
    assert measured(spec("A100-40G", context_tokens=8192), length=1000).sequences == 9426 // 63


def test_70b_needs_more_than_one_h100() -> None:
    refused = measured(llama_70b())
    assert refused.fits is False
    assert refused.reason is not None
    assert "131.4 GiB weights (70.55B parameters, bfloat16)" in refused.reason
    assert "71.2 GiB (0.9 of the 79.1 GiB of one H100)" in refused.reason
    assert nearest_change(llama_70b(), LLAMA_70B, Site()) == {"tensor_parallel": 2}


def test_70b_in_fp8_on_one_h200_and_in_bf16_on_four_h100() -> None:
    assert measured(llama_70b("H200", quantization="fp8")).fits
    assert measured(llama_70b("H200")).fits is False
    assert nearest_change(llama_70b("H200"), LLAMA_70B, Site()) == {"quantization": "fp8"}
    assert measured(llama_70b(tensor_parallel=4)).fits


@pytest.mark.parametrize(
    ("model", "change", "told"),
    [
        (spec("V100-32G"), {"dtype": "float16"}, "cannot compute bfloat16"),
        (spec("V100-32G", dtype="float16", quantization="fp8"), {"quantization": None}, "fp8 does not run on V100"),
        (spec(tensor_parallel=3), {"tensor_parallel": 2}, "1, 2, 4, 8, 16 would"),
        (spec(pipeline_parallel=40), {"pipeline_parallel": 32}, "more than the model's 32 layers"),
        (spec(context_tokens=200_000), {"context_tokens": 131_072}, "more than the 131072"),
        (spec("L4", context_tokens=32_768), {"context_tokens": 23_040}, "hold 23280 tokens"),
        (spec(kv_cache=80 * GIB), {"kv_cache": None}, "80.0 GiB KV cache"),
        (
            llama_70b("A100"),
            {"tensor_parallel": 4, "pipeline_parallel": 2},
            "35.4 GiB (0.9 of the 39.3 GiB of one A100)",
        ),
        (spec(None), {"kv_cache": 256 << 20}, "kv_cache is not set"),
        (spec(None, kv_cache=64 << 20), {"kv_cache": 256 << 20}, "needs 256.0 MiB"),
    ],
)
def test_refusals_name_numbers_and_the_nearest_change(model: ModelSpec, change: dict[str, Any], told: str) -> None:
    refused = measured(model)
    shape = shape_of(model.source)
    assert refused.fits is False
    assert told in (refused.reason or "")
    assert shape is not None
    assert nearest_change(model, shape, Site()) == change


def test_what_is_unknown_is_said_not_refused() -> None:
    shapeless = measured(spec(source="me/secret"))
    assert shapeless.fits is None
    assert "hf download me/secret" in (shapeless.reason or "")
    assert measured(spec("Z9000")).fits is None
    assert "no hardware.gpu_type" in (measured(spec(None, hardware={"kind": "gpu"})).reason or "")


def test_notes() -> None:
    assert "planned as the smaller" in measured(spec("A100")).notes[0]
    assert "speed is not" in measured(spec("A100-80G", quantization="fp8")).notes[0]
    assert "longer than context_tokens" in measured(spec(), length=100_000).notes[0]
    assert "spans nodes" in measured(llama_70b(tensor_parallel=8)).notes[-1]


# --- whole profiles ---


def test_allocation_of_the_llamas() -> None:
    result = plan(load_settings("llama", {}))
    assert result.fits
    assert result.change == {}
    small, large = result.allocations
    assert (small.device, small.least_gpus, small.peak_gpus, small.least_nodes, small.peak_nodes) == (
        "A100",
        2,
        6,
        1,
        2,
    )
    assert (large.device, large.least_gpus, large.peak_gpus, large.peak_nodes) == ("H100", 4, 4, 1)


@pytest.mark.parametrize("name", ["pocket", "laptop", "llama", "llama-fp8"])
def test_built_in_profiles_fit(name: str) -> None:
    result = plan(load_settings(name, {}), site=Site(host_memory=8 * GIB, host_cpus=2))
    assert result.fits, result.problems
    assert all(model.fits for model in result.models)
    assert json.loads(json.dumps(result.to_json()))["fits"] is True
    assert len(result.rows()) == len(result.models)


def test_a_profile_that_cannot_fit_is_refused_with_yaml() -> None:
    result = plan(load_settings("llama", {"CORRAL_MODELS__LLAMA_3_1_70B__TENSOR_PARALLEL": "1"}))
    with pytest.raises(PlanError) as caught:
        result.require_fit()
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("llama-3.1-70b: 131.4 GiB weights")
    assert lines[1:] == [
        "The nearest profile that fits has:",
        "models:",
        "  llama-3.1-70b:",
        "    tensor_parallel: 2",
    ]


def test_models_that_do_not_fit_the_host_together_take_turns() -> None:
    settings_ = load_settings("pocket", {})
    result = plan(settings_, site=Site(host_memory=5 * GIB))
    needed = sum(model.replica_memory for model in result.models)
    assert needed > 5 * GIB
    assert result.problems == (f"the models together need {gib(needed)} of memory, the host has 5.0 GiB",)
    assert set(result.change["models"]) == {"pocket-70b", "pocket-8b"}
    changed = [apply_change(model, result.change["models"].get(model.id, {})) for model in settings_.models.values()]
    assert plan(profile(*changed), site=result.site).fits


def test_too_few_logical_cpus() -> None:
    result = plan(load_settings("pocket", {"CORRAL_RAY__CPUS": "0.3"}))
    assert result.problems == ("the models together ask for 0.4 logical CPUs, Ray offers 0.3",)
    assert result.change == {"ray": {"cpus": 1.0}}


def test_replicas_that_only_fit_by_turns_are_noted() -> None:
    assert plan(load_settings("laptop", {}), site=Site(host_memory=64 * GIB)).notes == ()
    assert "every replica at once" in plan(load_settings("laptop", {}), site=Site(host_memory=8 * GIB)).notes[0]


def test_this_host_is_known() -> None:
    site = this_host()
    assert site.host_memory is not None
    assert site.host_cpus is not None


# --- properties ---

SPECS = st.builds(
    spec,
    st.sampled_from([*GPUS, None]),
    st.sampled_from(list(KNOWN)).map(lambda name: f"owner/{name}"),
    context_tokens=st.integers(16, 200_000),
    dtype=st.sampled_from(["auto", "bfloat16", "float16", "float32"]),
    quantization=st.sampled_from([None, "fp8"]),
    tensor_parallel=st.integers(1, 9),
    pipeline_parallel=st.integers(1, 90),
    kv_cache=st.none() | st.integers(1, 200 * GIB),
)
SITES = st.builds(Site, st.sampled_from([1, 4, 8]), st.none() | st.integers(GIB, 64 * GIB))


@settings(max_examples=100, deadline=None)
@given(SPECS, st.integers(1, 200_000), st.integers(1, 200_000))
def test_longer_sequences_never_fit_more_often(model: ModelSpec, one: int, other: int) -> None:
    short, long = sorted((one, other))
    few, many = measured(model, long).sequences, measured(model, short).sequences
    assert (few is None) == (many is None)
    assert few is None or many is None or few <= many


@settings(max_examples=100, deadline=None)
@given(SPECS, st.integers(17, 200_000))
def test_a_shorter_context_fits_wherever_a_longer_one_does(model: ModelSpec, tokens: int) -> None:
    shorter = model.model_copy(update={"context_tokens": min(tokens, model.context_tokens)})
    if measured(model).fits:
        assert measured(shorter).fits


@settings(max_examples=100, deadline=None)
@given(SPECS, SITES)
def test_a_proposed_change_fits(model: ModelSpec, site: Site) -> None:
    shape = shape_of(model.source)
    assert isinstance(shape, Shape)
    before = measure(model, shape, site)
    change = None if before.fits else nearest_change(model, shape, site)
    if change is not None:
        assert change
        assert measure(apply_change(model, json.loads(json.dumps(change))), shape, site).fits
