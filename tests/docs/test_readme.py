"""The README against the repository: generated parts, links, commands and code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from app.profile import PROFILES, built_in
from app.settings import Settings, load_settings
from app.submission.shape import shaped
from tests.docs.readme import README, ROOT, with_parts

TEXT = README.read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.S)
COMMENTED = {
    path.stem: [
        re.sub("^#   ", "", text, flags=re.M)
        for text in re.findall(r"(?:^#   .*\n)+", path.read_text(), re.M)
        if "\n#   cluster:" in text
    ]
    for path in PROFILES.glob("*.yaml")
}
"""A built-in profile's name -> the examples for clusters in its comments."""
ON_CLUSTERS = [text for language, text in BLOCKS if language == "yaml" and "\ncluster:" in text]


def test_generated_parts_are_what_the_code_says() -> None:
    assert with_parts(TEXT) == TEXT, "run: .venv/bin/python -m tests.docs.readme"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_links_lead_somewhere(target: str) -> None:
    assert target.startswith("https://") or (ROOT / target).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z-]+)\b", TEXT))))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("code", [text for language, text in BLOCKS if language == "python"])
def test_python_examples_are_python(code: str) -> None:
    assert ast.parse(code).body


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "yaml"])
def test_yaml_examples_are_settings(text: str) -> None:
    keys = yaml.safe_load(text).keys()
    assert keys <= {"extends", *Settings.model_fields}


@pytest.mark.parametrize("text", [*ON_CLUSTERS, *(text for texts in COMMENTED.values() for text in texts)])
def test_examples_for_clusters_load_and_have_a_place_for_each_model(text: str, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    assert shaped(load_settings(file, {})).cluster


@pytest.mark.parametrize("profile", ["llama", "llama-fp8"])
def test_profiles_for_gpus_have_an_example_for_clusters(profile: str) -> None:
    assert all(yaml.safe_load(text)["extends"] == profile for text in COMMENTED[profile])
    assert COMMENTED[profile]


@pytest.mark.parametrize("profile", built_in())
def test_every_profile_is_named(profile: str) -> None:
    assert f"`{profile}`" in TEXT


def test_examples_name_models_of_the_default_profile() -> None:
    named = set(re.findall(r"pocket-\w+", " ".join(text for _, text in BLOCKS)))
    assert {name for name in named if re.fullmatch(r"pocket-\d+b", name)} <= {
        "pocket-1b", "pocket-3b", "pocket-8b", "pocket-70b",
    }  # fmt: skip
