"""The README against the repository: generated parts, links, commands and code."""

from __future__ import annotations

import ast
import re

import pytest
import yaml

from app.profile import built_in
from app.settings import Settings
from tests.docs.readme import README, ROOT, with_parts

TEXT = README.read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.S)


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


@pytest.mark.parametrize("profile", built_in())
def test_every_profile_is_named(profile: str) -> None:
    assert f"`{profile}`" in TEXT


def test_examples_name_models_of_the_default_profile() -> None:
    named = set(re.findall(r"pocket-\w+", " ".join(text for _, text in BLOCKS)))
    assert {name for name in named if re.fullmatch(r"pocket-\d+b", name)} <= {
        "pocket-1b", "pocket-3b", "pocket-8b", "pocket-70b",
    }  # fmt: skip
