"""The files for Prometheus and Grafana: what they say, who may read them, and that every panel is whole."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.access.key_store import KeyStore
from app.launch import LaunchError, NotRunningError
from app.monitoring.files import Watched, config, watched, write
from app.monitoring.targets import Targets, follow, local_folder
from app.processes import birth
from app.settings import Settings, load_settings
from app.state import ServiceState, write_state

URL = "http://10.0.0.7:31044"


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CORRAL_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def settings(**access: Any) -> Settings:
    return Settings.model_validate({**load_settings("pocket").model_dump(), "access": access})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def running(tmp_path: Path, phase: str = "serving", address: str = URL, certificate: str = "") -> ServiceState:
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "settings.json").write_text(settings(keys="off").model_dump_json())
    run_dir, created = str(tmp_path / "run"), birth(os.getpid())
    state = ServiceState("mine", os.getpid(), created, "pocket", run_dir, address, phase, certificate=certificate)
    write_state(state)
    return state


def test_without_keys_and_tls_prometheus_needs_neither(tmp_path: Path) -> None:
    running(tmp_path)
    written = write(watched("mine"), None)
    said = yaml.safe_load(written.config.read_text())
    (scrape,) = said["scrape_configs"]
    targets = Targets(written.folder)
    assert scrape["file_sd_configs"][0]["files"] == [str(targets.file)]
    assert not {"authorization", "tls_config"} & scrape.keys()
    assert said["rule_files"] == [str(written.folder / "rules.yaml")]
    assert json.loads(targets.file.read_text()) == [
        {"targets": ["10.0.0.7:31044"], "labels": {"service": "mine", "__scheme__": "http"}}
    ]
    assert mode(written.folder) == 0o700
    assert {path.name: mode(path) for path in written.folder.iterdir()} == dict.fromkeys(
        ("prometheus.yml", "rules.yaml", "dashboard.json", "targets.json"), 0o600
    )
    assert "--web.listen-address=127.0.0.1:9090" in written.command
    assert written.made_key is None


def test_a_key_is_made_once_and_anew_where_it_is_not_taken_any_more(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.json")
    service = Watched("mine", settings(keys="required", file=str(tmp_path / "keys.json")), Targets(tmp_path), "x")
    output = tmp_path / "out"
    first, second = write(service, output), write(service, output)
    text = (output / "key").read_text()
    assert first.made_key
    assert second.made_key is None
    assert mode(output / "key") == 0o600
    assert store.load().by_id[first.made_key].scopes == ("metrics",)
    assert config(service, output)["scrape_configs"][0]["authorization"] == {"credentials_file": str(output / "key")}
    store.rotate(first.made_key)
    third = write(service, output)
    assert third.made_key not in (None, first.made_key)
    assert (output / "key").read_text() != text
    store.revoke(third.made_key or "")
    assert write(service, output).made_key not in (None, third.made_key)


def test_a_certificate_that_was_made_is_trusted_and_one_of_an_authority_is_not_named(tmp_path: Path) -> None:
    made = tmp_path / "certificate.pem"
    made.write_text("PEM\n")
    targets = Targets(tmp_path / "shared")
    targets.folder.mkdir()
    service = Watched("mine", settings(keys="off", tls={}), targets, "x", shared=True)
    with pytest.raises(LaunchError, match="once it serves"):
        write(service, tmp_path / "out")
    targets.publish("https://[fd00::7]:31044", {"node": "n7"}, [made, tmp_path / "gone.pem"])
    said = yaml.safe_load(write(service, tmp_path / "out").config.read_text())
    assert said["scrape_configs"][0]["tls_config"] == {"ca_file": str(targets.authorities)}
    assert targets.authorities.read_text() == "PEM\n"
    assert json.loads(targets.file.read_text()) == [
        {"targets": ["[fd00::7]:31044"], "labels": {"node": "n7", "__scheme__": "https"}}
    ]
    own = settings(keys="off", tls={"certificate": "/a.pem", "key": "/b.pem"})
    assert "tls_config" not in config(Watched("mine", own, targets, "x"), tmp_path)["scrape_configs"][0]


def test_targets_follow_a_service_of_this_host_where_anybody_asked_for_them(tmp_path: Path) -> None:
    state = running(tmp_path, address="http://0.0.0.0:8000")
    follow(state)
    assert not local_folder("mine").exists()
    written = write(watched("mine"), tmp_path / "elsewhere")
    file = Targets(local_folder("mine")).file
    assert str(file) in written.config.read_text()
    assert json.loads(file.read_text())[0]["targets"] == ["127.0.0.1:8000"]
    follow(running(tmp_path, "stopping"))
    assert json.loads(file.read_text()) == []
    back = running(tmp_path, address="http://127.0.0.1:8001")
    follow(back)
    assert json.loads(file.read_text())[0]["targets"] == ["127.0.0.1:8001"]
    follow(replace(back, created=""))  # it was killed, and its id is another's
    assert json.loads(file.read_text()) == []


def test_what_cannot_be_watched_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="corral up"):
        watched("nowhere")
    running(tmp_path)
    service = watched("mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchError, match="--output"):
        write(service, tmp_path / "file" / "out")
    (tmp_path / "run" / "settings.json").unlink()
    with pytest.raises(NotRunningError, match="start it again"):
        watched("mine")


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads(resources.files("app.monitoring").joinpath("dashboard.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_every_panel_of_the_dashboard_is_whole() -> None:
    dashboard = json.loads(resources.files("app.monitoring").joinpath("dashboard.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) > 30
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert [variables["datasource"]["type"], variables["model"]["type"]] == ["datasource", "query"]
    for panel in panels():
        title = panel["title"]
        assert panel["description"].endswith("."), title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, title
        for place in (panel, *panel["targets"]):
            assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, title
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), title


def test_no_two_panels_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
