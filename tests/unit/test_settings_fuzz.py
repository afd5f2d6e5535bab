"""Profiles and variables as people write them: settings that survive YAML, or lines that say what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.overrides import RESERVED, overrides
from app.profile import PROFILES, SettingsError, deep_merge, parse
from app.settings import Settings, load_settings
from tests.unit.mutations import TEXTS, VALUES, changed, damaged

FUZZED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WHOLE: dict[str, Any] = {
    "models": {
        "a": {"source": "o/n", "hardware": {"kind": "gpu", "gpu_type": "H200", "resources": {"x": 0.5}},
              "kv_cache": "1 GiB", "lora": {"adapters": {"b": "./b"}}, "engine": {"seed": 1, "x": {"y": [1.5, None]}},
              "autoscaling": {"min_replicas": 0, "max_replicas": 2}, "env": {"A": "1"}},
        "llama-3.1": {"source": "pocket:pocket-1b", "hardware": {"kind": "cpu", "cpus": 0.1}},
    },
    "gateway": {"replicas": 2, "max_body": "8 MiB"},
    "edge": {"port": 9000, "idle_timeout_s": 60.5},
    "access": {"keys": "required", "file": "keys.json", "tls": {"certificate": "~/c.pem", "key": "/k.pem"}},
    "ray": {"cpus": 2, "environment": {"OMP_NUM_THREADS": "1"}},
    "cluster": {"walltime": "8:00:00", "shared": "/scratch", "setup": ["export A=1"],
                "container": {"kind": "apptainer", "image": "./corral.sif", "binds": ["/a:/b:ro"]},
                "groups": [{"name": "big", "nodes": 2, "gpus": 4, "gpu_type": "h200", "memory": "500 GiB"}]},
    "tribunals": {"default": {"members": ["a", {"model": "b", "role": "a sceptic"}], "chair": "a",
                              "stop": {"consensus": 0.6}},
                  "deep": {"members": ["a", "tribunal"]}},
    "rag": {"folder": "docs", "embedding": {"model": "./mini"}, "search": {"mmr_lambda": 0.5}, "model": "a"},
    "traces": {"endpoint": "http://collector:4318", "headers": {"x-key": "k"}},
}  # fmt: skip
PIECES = st.sampled_from(
    ["models", "extends", "edge", "a", "x/y", ": ", ":", "- ", "? ", "\n", "  ", "{", "}", "[", "]", ", ", "&a ", "*a",
     "<<: ", "!!bool ", "!!int ", "!!float ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!!str ", '"', "'",
     "\\U", "FFFFFFFF", "\\ud800", "\\0", "~", ".nan", ".inf", "2001-01-01", "1:30", "0x", "_", "|\n", ">-\n",
     "%YAML 1.2\n", "!x ", "---\n", "...\n", "#", "\t", "\x85", "\ufeff", "="]
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def loaded(path: Path, content: bytes, environ: Mapping[str, str] | None = None) -> Settings | None:
    """None if it is refused, with lines that say something; settings come back from their own YAML as they are."""
    path.write_bytes(content)
    try:
        found = load_settings(path, environ or {})
    except SettingsError as error:
        assert error.problems  # noqa: PT017
        assert all(problem.strip() for problem in error.problems)  # noqa: PT017
        return None
    path.write_text(found.to_yaml(), encoding="utf-8")
    assert load_settings(path, {}) == found
    return found


def as_yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, sort_keys=False).encode()


def test_what_is_changed_here_loads_as_it_is(path: Path) -> None:
    assert loaded(path, as_yaml(WHOLE))


@FUZZED
@given(changed(WHOLE))
@example({**WHOLE, "ray": {"environment": {"A": "\x85\u2028\u2029 \N{LLAMA}"}}})
@example({**WHOLE, 1: 2})
@example({"models": {"a": {"source": "o/n", "engine": {"x": ["\ud800"]}}}})
@example({"models": {"a": {"source": "o/n", "engine": {"\ud800": 1}}}})
@example({"models": {"a": {"source": "o/n", "engine": {"x": {"y": float("nan")}}}}})
@example({**WHOLE, "ray": {"environment": {"\ud800": "1"}}})
@example({**WHOLE, "_env_file": "x"})
@example({**WHOLE, "extends": "a" * 300})
@example({**WHOLE, "edge": {"idle_timeout_s": float("inf")}})
@example({**WHOLE, "models": {"a": {"source": "~nobody/x"}}})
@example({**WHOLE, "models": {"a": {"source": "./" + "a" * 300}}})
def test_any_profile_is_settings_or_lines_of_what_is_wrong(path: Path, profile: Any) -> None:
    loaded(path, as_yaml(profile))


@FUZZED
@given(st.lists(PIECES, max_size=20).map(lambda pieces: "".join(pieces).encode())
       | st.binary(max_size=40)
       | damaged(as_yaml(WHOLE))
       | st.sampled_from(sorted(PROFILES.glob("*.yaml"))).map(Path.read_bytes).flatmap(damaged))  # fmt: skip
@example(b"models: {a: {source: x/y, engine: &a {x: *a}}}")
@example(b"models: {a: {source: x/y, engine: {x: !!set {}}}}")
@example(b"models: {a: {source: x/y, engine: {x: 2001-01-01}}}")
@example(b"a: !!bool x")
@example(b'a: !!int ""')
@example(b"a: !!timestamp x")
@example(b'a: "\\UFFFFFFFF"')
@example(b"a: " + b"9" * 5000)
@example(b"[" * 10_000)
def test_any_text_is_settings_or_lines_of_what_is_wrong(path: Path, content: bytes) -> None:
    loaded(path, content)


def test_a_few_lines_are_no_more_values_than_memory_holds(path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]" for n in range(30)]
    path.write_text("\n".join(lines))
    with pytest.raises(SettingsError, match="more than 100,000 values"):
        parse(path)


@FUZZED
@given(st.dictionaries(st.text(max_size=8).filter(lambda key: not key.startswith("_")),
                       VALUES, max_size=3))  # fmt: skip
def test_what_is_written_is_read(path: Path, data: dict[str, Any]) -> None:
    path.write_bytes(as_yaml(data))
    assert repr(parse(path)) == repr(data)  # for NaN is not itself


SET: dict[tuple[str, ...], st.SearchStrategy[Any]] = {
    ("edge", "port"): st.integers(1, 65_535),
    ("edge", "host"): st.text(st.characters(categories=["L", "N"]), max_size=8),
    ("edge", "idle_timeout_s"): st.floats(0.1, 1e6),
    ("gateway", "max_body"): st.integers(1, 1 << 40),
    ("ray", "include_dashboard"): st.booleans(),
    ("models", "llama-3.1", "context_tokens"): st.integers(16, 1 << 20),
    ("models", "a", "env", "HF_TOKEN"): st.text(st.characters(exclude_categories=["C"]), max_size=8),
    ("models", "a", "engine", "seed"): VALUES.filter(lambda value: json.loads(json.dumps(value)) == value),
    ("cluster", "drain_s"): st.integers(1, 1000),
    ("tribunals", "deep", "rounds"): st.integers(1, 8),
    ("tribunals", "default", "members"): st.just(["b", "a"]),
    ("rag", "search", "top_k"): st.integers(1, 100),
    ("access", "keys"): st.sampled_from(["auto", "off"]),
}


def variable(path: tuple[str, ...]) -> str:
    written = [part.replace("-", "_").replace(".", "_").upper() for part in path]
    return "CORRAL_" + "__".join([*written[:-1], path[-1] if "env" in path or "engine" in path else written[-1]])


@FUZZED
@given(st.sampled_from(sorted(SET)).flatmap(lambda key: st.tuples(st.just(key), SET[key])))
def test_a_variable_says_what_a_key_of_the_file_says(path: Path, setting: tuple[tuple[str, ...], Any]) -> None:
    key, value = setting
    text = value if isinstance(value, str) else json.dumps(value)
    if text == "null":
        return
    nested: Any = value
    for part in reversed(key):
        nested = {part: nested}
    wanted = loaded(path, as_yaml(deep_merge(WHOLE, nested)))
    assert wanted or "engine" in key  # which takes anything that can be written
    assert loaded(path, as_yaml(WHOLE), {variable(key): text}) == wanted


NAMES = st.sampled_from([variable(key) for key in SET]) | st.text(max_size=12).map("CORRAL_".__add__)
CUT = st.tuples(NAMES, st.integers(7, 40), st.sampled_from(["", "_", "__", "__X", "__A__B"])).map(
    lambda drawn: drawn[0][: drawn[1]] + drawn[2]
)
TOLD = (
    TEXTS
    | VALUES.map(json.dumps)
    | st.sampled_from(["{" * 10, "[" * 100_000, '{"a":' * 3000, "NaN", "-Infinity", "1e999"])
)


@FUZZED
@given(st.dictionaries((NAMES | CUT).filter(lambda name: name not in RESERVED), TOLD, max_size=3))
@example({"CORRAL_GATEWAY": "[" * 100_000})
@example({"CORRAL_MODELS__A__SOURCE": "~nobody/x"})
@example({"CORRAL_RAG__FOLDER": "a\0"})
def test_any_environment_is_settings_or_lines_that_name_the_variable(path: Path, environ: dict[str, str]) -> None:
    loaded(path, as_yaml(WHOLE), environ)
    try:
        layers = overrides(Settings, environ, WHOLE)
    except SettingsError as error:
        assert all(problem.startswith("$CORRAL_") for problem in error.problems)  # noqa: PT017
    else:
        assert [layer.name for layer in layers] == sorted(f"${name}" for name in environ)
