"""Where keys and usage lie, and whether keys are asked for."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import pytest

from app.access.place import keys_file, keys_required, own_key_file, usage_file
from app.settings import Settings
from app.state import DIRECTORY_VARIABLE


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(access: dict[str, Any] | None = None, shared: Path | None = None) -> Settings:
    cluster = {"walltime": "1:00:00", "shared": str(shared)} if shared else None
    models = {"llama": {"source": "pocket:pocket-1b"}}
    return Settings.model_validate({"models": models, "access": access or {}, "cluster": cluster})


def test_they_lie_in_the_state_folder(folder: Path) -> None:
    assert keys_file(settings()) == folder / "state" / "keys.json"
    assert own_key_file(settings()) == folder / "state" / "first-key"
    assert usage_file(settings(), "corral") == folder / "state" / "corral-usage.db"


def test_a_state_folder_that_is_not_absolute_is_from_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, "here")
    assert keys_file(settings()) == folder / "here" / "keys.json"
    assert usage_file(settings(), "corral").is_absolute()


def test_a_cluster_has_them_where_all_nodes_see_them(folder: Path) -> None:
    shared = folder / "shared"
    own = shared / f"corral-{getpass.getuser()}"
    assert keys_file(settings(shared=shared)) == own / "keys.json"
    assert own_key_file(settings(shared=shared)) == own / "first-key"
    assert usage_file(settings(shared=shared), "other") == own / "other-usage.db"


def test_a_file_that_is_named_counts_before_all(folder: Path) -> None:
    named = settings({"file": str(folder / "mine" / "k.json")}, shared=folder / "shared")
    assert keys_file(named) == folder / "mine" / "k.json"
    assert own_key_file(named) == folder / "mine" / "first-key"
    assert usage_file(named, "corral").parent == folder / "shared" / f"corral-{getpass.getuser()}"
    assert keys_file(settings({"file": "k.json"})) == folder / "k.json"


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("127.0.0.1", False),
        ("127.8.9.10", False),
        ("::1", False),
        ("[::1]", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("*", True),
        ("", True),
        ("10.0.0.5", True),
        ("node1.cluster", True),
        ("localhost.evil.example", True),
    ],
)
def test_keys_are_asked_for_beyond_loopback(host: str, asked: bool) -> None:
    assert keys_required(settings(), host) is asked
    assert keys_required(settings({"keys": "required"}), host) is True
    assert keys_required(settings({"keys": "off"}), host) is False
