"""What a run keeps of the profile that it measured: what the figures depend on, and no secret."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.bench.configuration import configuration_of, gpus_of
from app.settings import Settings, load_settings
from loadtests.report.setup import pocket_models, random_weights


def settings_with(**models: dict[str, Any]) -> Settings:
    base = {"source": "meta-llama/Llama-3.2-1B", "hardware": {"kind": "gpu", "gpu_type": "H200"}}
    return Settings(models={name.replace("_", "-"): {**base, **spec} for name, spec in models.items()})


def test_the_pocket_profile() -> None:
    found = configuration_of(load_settings("pocket", {}), ["pocket-8b"])
    assert pocket_models(found)
    told = json.loads(json.dumps(found))["models"]
    assert list(told) == ["pocket-8b"]
    assert told["pocket-8b"]["engine"]["max_model_len"] == 2048
    assert told["pocket-8b"]["environment"]["OMP_NUM_THREADS"] == "1"


def test_nothing_that_may_be_secret() -> None:
    settings = settings_with(
        large={
            "env": {"HF_TOKEN": "hf_mine", "VLLM_NO_USAGE_STATS": "my-own"},
            "runtime_env": {"env_vars": {"WANDB": "wb_mine"}},
            "engine": {
                "hf_token": "hf_mine", "load_format": "dummy", "max_num_batched_tokens": 8192,
                "model_loader_extra_config": {"api-key": "ak_mine", "url": "https://me:pw_mine@there/x"},
            },
        }
    )  # fmt: skip
    found = configuration_of(settings, ["large"])
    text = json.dumps(found)
    assert not [secret for secret in ("_mine", "my-own") if secret in text]
    assert random_weights(found)
    model: Any = found["models"]
    assert model["large"]["env"] == ["HF_TOKEN", "VLLM_NO_USAGE_STATS"]
    assert model["large"]["engine"]["max_num_batched_tokens"] == 8192
    assert model["large"]["engine"]["model_loader_extra_config"]["url"] == "https://there/x"


def test_a_profile_without_end_is_not_kept() -> None:
    found = configuration_of(settings_with(large={"engine": {"additional_config": {"x": "y" * 100_000}}}), ["large"])
    assert found["models"] == ["large"]
    assert "characters" in str(found["left out"])


def test_of_an_address_alone_nothing_is_known() -> None:
    assert configuration_of(None, ["large"]) == {}
    assert gpus_of(None, ["large"]) == {}


@pytest.mark.parametrize(
    ("models", "gpus"),
    [
        (["one"], {"one": 4}),
        (["one", "piped", "adapted"], {"one": 4, "piped": 8, "adapted": 8}),
        (["varies"], {}),
        (["one", "varies"], {"one": 4}),
        (["cpu"], {"cpu": 0}),
        (["cpu", "one"], {"cpu": 0, "one": 4}),
        (["elsewhere"], {}),
    ],
)
def test_gpus_of_each_model_where_they_are_known(models: list[str], gpus: dict[str, float]) -> None:
    settings = settings_with(
        one={"tensor_parallel": 2, "autoscaling": {"min_replicas": 2, "max_replicas": 2}},
        varies={"autoscaling": {"min_replicas": 1, "max_replicas": 2}},
        cpu={"hardware": {"kind": "cpu"}, "autoscaling": {"min_replicas": 1, "max_replicas": 3}},
        piped={"tensor_parallel": 4, "pipeline_parallel": 2, "lora": {"adapters": {"adapted": "/adapter"}}},
    )
    assert gpus_of(settings, models) == gpus
