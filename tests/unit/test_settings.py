from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import PROFILES, Settings, SettingsError, load_settings, resolve_source
from deployments.config import ModelSpec
from deployments.pocket import CHECKPOINTS

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def refusal(profile: str | Path | None, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(profile, environ)
    return str(caught.value)


ONE = "models:\n  a: {source: pocket:pocket-1b}\n"


@pytest.mark.parametrize("name", [path.stem for path in PROFILES.glob("*.yaml")])
def test_built_in_profiles_load_and_survive_yaml(name: str, write: Write) -> None:
    settings = load_settings(name, {})
    assert load_settings(write(settings.to_yaml()), {}) == settings


def test_profiles_hold_what_they_promise() -> None:
    pocket, laptop, llama = (load_settings(name, {}).models for name in ("pocket", "laptop", "llama"))
    assert list(pocket) == ["pocket-1b", "pocket-3b", "pocket-8b", "pocket-70b"]
    assert {spec.hardware.kind for spec in (*pocket.values(), *laptop.values())} == {"cpu"}
    assert list(llama) == ["llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "llama-3.1-70b"]
    assert llama["llama-3.1-70b"].gpus == 4
    assert all(spec.hardware.gpu_type for spec in llama.values())
    assert load_settings("llama-fp8", {}).models["llama-3.1-70b"].gpus == 1


def test_default_profile_is_pocket_and_corral_profile_changes_it() -> None:
    assert "pocket-1b" in load_settings(None, {}).models
    assert "llama-3.2-1b" in load_settings(None, {"CORRAL_PROFILE": "llama"}).models
    assert "pocket-1b" in load_settings("pocket", {"CORRAL_PROFILE": "llama"}).models


def test_specs_carry_ids_and_resolved_sources() -> None:
    settings = load_settings("pocket", {})
    assert settings.specs[0].id == "pocket-1b"
    assert settings.specs[0].source == str(CHECKPOINTS / "pocket-1b")
    assert settings.models["pocket-1b"].source == "pocket:pocket-1b"


def test_settings_are_frozen_and_ignore_the_environment_when_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_EDGE__PORT", "9")
    settings = Settings(models={"a": ModelSpec(id="a", source="o/n")})
    assert settings.edge.port == 8000
    with pytest.raises(ValidationError):
        settings.edge.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.edge = settings.edge  # type: ignore[misc]


# --- the environment ---


def test_environment_beats_yaml() -> None:
    environ = {
        "CORRAL_EDGE__PORT": "9000",
        "CORRAL_MODELS__POCKET_70B__AUTOSCALING__MAX_REPLICAS": "3",
        "CORRAL_MODELS__pocket_1b__KV_CACHE": "64 MiB",
        "CORRAL_MODELS__POCKET_3B__ENGINE__seed": "7",
        "CORRAL_MODELS__POCKET_3B__ENV__HF_TOKEN": "123",
        "CORRAL_MODELS__POCKET_3B__TOOL_PARSER": "null",
        "CORRAL_RAY__ENVIRONMENT__OMP_NUM_THREADS": "1",
        "CORRAL_GATEWAY": '{"replicas": 2}',
        "CORRAL_STATE_DIR": "/tmp",
        "CORRAL_NAME": "me",
        "PATH": "/bin",
    }
    settings = load_settings("pocket", environ)
    assert settings.edge.port == 9000
    assert settings.models["pocket-70b"].autoscaling.max_replicas == 3
    assert settings.models["pocket-1b"].kv_cache == 64 << 20
    third = settings.models["pocket-3b"]
    assert (third.engine["seed"], third.env, third.tool_parser) == (7, {"HF_TOKEN": "123"}, None)
    assert settings.ray.environment == {"OMP_NUM_THREADS": "1"}
    assert settings.gateway.replicas == 2


def test_environment_reaches_ids_with_dots_and_drops_models() -> None:
    environ = {"CORRAL_MODELS__LLAMA_3_1_8B__CONTEXT_TOKENS": "4096", "CORRAL_MODELS__LLAMA_3_1_70B": "null"}
    models = load_settings("llama", environ).models
    assert models["llama-3.1-8b"].context_tokens == 4096
    assert "llama-3.1-70b" not in models


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("CORRAL_EDGE__PROT", "did you mean CORRAL_EDGE__PORT?"),
        ("CORRAL_EDGEPORT", "valid here: CORRAL_MODELS, CORRAL_GATEWAY"),
        ("CORRAL_MODELS__POCKET_9B__ENV", "CORRAL_MODELS__POCKET_70B__..."),
        ("CORRAL_MODELS__POCKET_8B__ID", "CORRAL_MODELS__POCKET_8B__SOURCE"),
        ("CORRAL_MODELS__POCKET_8B__HARDWARE__KINDS", "CORRAL_MODELS__POCKET_8B__HARDWARE__KIND"),
        ("CORRAL_EDGE__PORT__X", "below a single value"),
    ],
)
def test_unknown_variables_are_refused_with_the_valid_ones(name: str, told: str) -> None:
    text = refusal("pocket", **{name: "1"})
    assert text.startswith(f"${name}: no such setting")
    assert told in text


def test_a_bad_value_names_its_variable() -> None:
    assert refusal("pocket", CORRAL_EDGE__PORT="banana").startswith("$CORRAL_EDGE__PORT: edge.port: ")


CLUSTER = {"CORRAL_CLUSTER__WALLTIME": "90", "CORRAL_CLUSTER__SHARED": "/shared"}


def test_the_environment_says_where_on_the_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {
        **CLUSTER,
        "CORRAL_CLUSTER__SHARED": "mine",
        "CORRAL_CLUSTER__LOCAL": "null",
        "CORRAL_CLUSTER__ACCOUNT": "0123",
        "CORRAL_CLUSTER__DRAIN_S": "30",
        "CORRAL_CLUSTER__SETUP": '["export A=1"]',
        "CORRAL_CLUSTER__GROUPS": '[{"gpus": 4}]',
        "CORRAL_CLUSTER__CONTAINER__KIND": "apptainer",
        "CORRAL_CLUSTER__CONTAINER__IMAGE": "./corral.sif",
    }
    cluster = load_settings("pocket", environ).cluster
    assert cluster is not None
    assert (cluster.walltime, cluster.shared, cluster.local) == (timedelta(minutes=90), tmp_path / "mine", None)
    assert (cluster.account, cluster.drain_s, cluster.setup) == ("0123", 30, ("export A=1",))
    assert (cluster.groups[0].gpus, cluster.container.image) == (4, str(tmp_path / "corral.sif"))


def test_a_bad_walltime_names_its_variable() -> None:
    text = refusal("pocket", **{**CLUSTER, "CORRAL_CLUSTER__WALLTIME": "soon"})
    assert text.startswith("$CORRAL_CLUSTER__WALLTIME: cluster.walltime: 'soon' is not a duration; SLURM reads")
    assert "cluster.shared: this key is required" in refusal("pocket", CORRAL_CLUSTER__WALLTIME="90")
    assert "did you mean CORRAL_CLUSTER__ACCOUNT?" in refusal("pocket", CORRAL_CLUSTER__ACOUNT="x")


# --- files ---


def test_a_profile_extends_another(write: Write) -> None:
    write("extends: pocket\nedge: {port: 9001}\nmodels: {pocket-8b: null}\n", "base.yaml")
    path = write("extends: ./base.yaml\nmodels:\n  pocket-1b: {context_tokens: 1024}\n")
    settings = load_settings(path, {})
    assert settings.edge.port == 9001
    assert list(settings.models) == ["pocket-1b", "pocket-3b", "pocket-70b"]
    assert settings.models["pocket-1b"].context_tokens == 1024
    assert settings.models["pocket-1b"].dtype == "float32"


def test_a_model_that_a_profile_below_leaves_empty_is_told(write: Write) -> None:
    base = write("models:\n  a:\n  b: {source: x/y}\n", "base.yaml")
    assert refusal(write("extends: base.yaml\n")) == f"{base}: models.a: this must hold keys and values, not None"


def test_a_folder_is_found_from_the_file_that_names_it(write: Write, tmp_path: Path) -> None:
    write("{}", "deep/llama/config.json")
    write("models:\n  mine: {source: ./llama}\n", "deep/base.yaml")
    settings = load_settings(write("extends: deep/base.yaml\n"), {})
    assert settings.specs[0].source == str(tmp_path / "deep/llama")


def test_folders_of_the_cluster_are_found_from_the_file_that_names_them(write: Write, tmp_path: Path) -> None:
    container = "container: {kind: apptainer, image: ./corral.sif}"
    write(f"{ONE}cluster: {{walltime: '90', shared: ../shared, local: ~/local, {container}}}\n", "deep/base.yaml")
    cluster = load_settings(write("extends: deep/base.yaml\n"), {}).cluster
    assert cluster is not None
    assert (cluster.shared, cluster.local) == (tmp_path / "shared", Path("~/local").expanduser())
    assert cluster.container.image == str(tmp_path / "deep/corral.sif")


def test_links_of_shared_folders_stay_as_they_are_written(write: Write, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    cluster = load_settings(write(f"{ONE}cluster: {{walltime: '90', shared: {tmp_path}/link/x}}\n"), {}).cluster
    assert cluster is not None
    assert cluster.shared == tmp_path / "link/x"


def test_images_that_are_names_stay_names(write: Write) -> None:
    text = f"{ONE}cluster: {{walltime: '90', shared: /s, container: {{kind: pyxis, image: nvcr.io#x/y}}}}\n"
    cluster = load_settings(write(text), {}).cluster
    assert cluster is not None
    assert cluster.container.image == "nvcr.io#x/y"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            ONE + "edgy: {}\n",
            "unknown key 'edgy' (did you mean 'edge'?); valid keys: access, bulk, cluster, edge, gateway, models, rag",
        ),
        ("models:\n  a: {sauce: x/y}\n", "models.a: unknown key 'sauce' (did you mean 'source'?)"),
        ("models:\n  a: {}\n", "models.a.source: this key is required, but missing"),
        ("models:\n  a:\n", "models.a: this must hold keys and values, not None"),
        ("models: {}\n", "models: at least one model is needed"),
        ("", "models: this key is required"),
        ("models:\n  a: {id: b, source: x/y}\n", "must not say another id"),
        ("models:\n  'a b': {source: x/y}\n", "'a b' is not an id"),
        ("models:\n  a: {source: x/y, context_tokens: 3}\n", "models.a.context_tokens: input should be greater"),
        ("models:\n  a: {source: x/y, hardware: {kind: tpu}}\n", "models.a.hardware.kind: input should be 'cpu' or"),
        (
            "models:\n  a: {source: x/y}\n  a: {source: x/z}\n",
            "line 3: not valid YAML: the key 'a' is already there",
        ),
        ("models:\n  a: {source: x/y\n", "line 3: not valid YAML"),
        ("- a\n", "a profile is keys and values (models: ...), not a list"),
        ("extends: nope\n", "mine.yaml: extends: nope: there is no profile of that name"),
        ("models:\n  1: {source: x/y}\n", "models: the id 1 is not text; put it in quotes"),
        ("models:\n  a: {source: x/y, kv_cache: lots}\n", "'lots' is not a size; write bytes, or for example 256 MiB"),
        ("extends: mine.yaml\n", "goes round in a circle"),
        ("models:\n  a: {source: pocket:7b}\n", "no embedded model 'pocket:7b'; there are pocket:pocket-1b"),
        ("models:\n  a: {source: ./none}\n", "there is no folder"),
        ("models:\n  a: {source: .}\n", "has no config.json"),
        ("models:\n  a: {source: a/b/c}\n", "neither a hub id (owner/name) nor a folder (write ./a/b/c"),
        (
            "models:\n  a: {source: x/y, lora: {adapters: {c: ./l}}}\n  b: {source: x/y, lora: {adapters: {c: ./l}}}\n",
            "the id 'c' is used twice, by 'a' and 'b'",
        ),
        ("models:\n  a: {source: x/y, lora: {adapters: {a: ./l}}}\n", "the id 'a' is used twice"),
    ],
)
def test_mistakes_are_told_by_file_and_key(text: str, told: str, write: Write) -> None:
    path = write(text)
    message = refusal(path)
    assert told in message
    assert str(path) in message


def test_a_mistake_names_the_file_that_made_it(write: Write) -> None:
    write("models:\n  a: {source: x/y, context_tokens: 3, gpu: 1}\n", "base.yaml")
    assert "base.yaml: models.a: unknown key 'gpu'" in refusal(
        write("extends: base.yaml\nmodels: {a: {dtype: auto}}\n")
    )


def test_every_problem_is_told_at_once(write: Write) -> None:
    text = refusal(write("models:\n  a: {source: x/y, context_tokens: 3}\nedge: {port: 0}\n"))
    assert len(text.splitlines()) == 2


def test_a_missing_profile_names_the_built_in_ones() -> None:
    assert refusal("poket") == (
        "poket: there is no profile of that name and no such file; "
        "built-in profiles: laptop, llama, llama-fp8, peers, pocket"
    )


@pytest.mark.parametrize(
    ("source", "resolved"),
    [
        ("pocket:pocket-8b", str(CHECKPOINTS / "pocket-8b")),
        ("./x", "/base/x"),
        ("../x", "/x"),
        ("/abs/x", "/abs/x"),
        ("~/x", str(Path("~/x").expanduser())),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
    ],
)
def test_sources_resolve(source: str, resolved: str) -> None:
    assert resolve_source(ModelSpec(id="a", source=source), Path("/base")) == resolved
