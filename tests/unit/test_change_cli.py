"""`corral apply`: what it prints and with which code it ends, beside a service that is this very process."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.change.records import FOLDER, ChangeFolder, ChangeStatus
from app.processes import birth
from app.settings import load_settings
from app.state import ServiceState, write_state
from tests.unit.conftest import Corral
from tests.waiting import until

MODELS = {"a": {"source": "pocket:pocket-1b", "hardware": {"kind": "cpu"}}}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run folder of a service that serves model a."""
    monkeypatch.setenv("CORRAL_STATE_DIR", str(tmp_path / "state"))
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    me = os.getpid()
    write_state(ServiceState("s", me, birth(me), "old", str(run_dir), "http://127.0.0.1:1", "serving"))
    (run_dir / "settings.json").write_text(load_settings(written(tmp_path), {}).model_dump_json())
    ChangeFolder(run_dir / FOLDER).open()
    return run_dir


def written(folder: Path, **sections: Any) -> Path:
    path = folder / "new.yaml"
    path.write_text(yaml.safe_dump({"models": MODELS, **sections}))
    return path


@contextmanager
def answering(run_dir: Path, phase: str, message: str = "") -> Iterator[None]:
    """A service that takes one order and ends it so."""
    folder = ChangeFolder(run_dir / FOLDER)

    def answer() -> None:
        order = until(folder.take, what="an order")
        assert order
        told = {"a": {"how": "in place", "state": "done", "detail": ""}}
        status = ChangeStatus(order.id, "changing", 1.0, 2.0, profile=order.profile, models=told)
        folder.tell(status)
        folder.tell(replace(status, phase=phase, message=message))
        folder.close()

    thread = threading.Thread(target=answer)
    thread.start()
    yield
    thread.join()


CHANGED: dict[str, Any] = {"bulk": {"max_items": 3}}


def test_a_dry_run_says_what_would_happen_and_asks_nobody(place: Path, corral: Corral) -> None:
    more = {"models": {**MODELS, "b": MODELS["a"]}}
    code, out, _ = corral(f"apply -n s -p {written(place.parent, **more)} --dry-run")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["a", "unchanged"], ["b", "new"]]
    assert list((place / FOLDER).iterdir()) == []
    code, out, _ = corral(f"apply -n s -p {written(place.parent, **CHANGED)} --dry-run --json")
    assert json.loads(out)["settings"] == ["bulk.max_items"]


@pytest.mark.parametrize(
    ("phase", "code", "said"),
    [
        ("done", 0, ""),
        ("gone back", 14, "all is as before, since models.a: no weights"),
        ("failed", 15, "models.a: no weights; `corral status`"),
        ("refused", 3, "nothing was changed: models.a: no weights"),
    ],
)
def test_each_end_has_its_code(place: Path, corral: Corral, phase: str, code: int, said: str) -> None:
    with answering(place, phase, "" if phase == "done" else "models.a: no weights"):
        got, out, err = corral(f"apply -n s -p {written(place.parent, **CHANGED)} --json")
    assert (got, json.loads(out)["phase"]) == (code, phase)
    assert said in err


def test_nothing_to_change_is_done_without_asking(place: Path, corral: Corral) -> None:
    code, out, _ = corral(f"apply -n s -p {written(place.parent)}")
    assert (code, "nothing changes" in out) == (0, True)
    code, out, _ = corral(f"apply -n s -p {written(place.parent)} --json")
    assert (code, json.loads(out)["phase"]) == (0, "done")


def test_what_cannot_be_changed_is_told_with_its_fields(place: Path, corral: Corral) -> None:
    code, _, err = corral(f"apply -n s -p {written(place.parent, edge={'port': 9}, ray={'cpus': 3})}")
    assert code == 3
    assert "edge.port, ray.cpus: cannot be changed while the service runs" in err
    assert corral(f"apply -n s -p {written(place.parent, edge={'port': 9})} --port 8000 --dry-run")[0] == 0


def test_a_wrong_profile_is_told_before_anything_happens(place: Path, corral: Corral) -> None:
    code, _, err = corral(f"apply -n s -p {written(place.parent, bulk={'max_items': 0})}")
    assert (code, "bulk.max_items" in err) == (3, True)
    assert list((place / FOLDER).iterdir()) == []


def test_a_second_change_is_refused_while_one_goes_on(place: Path, corral: Corral) -> None:
    folder = ChangeFolder(place / FOLDER)
    order = folder.submit({}, "first.yaml", 60, 1.0)
    folder.take()
    folder.tell(ChangeStatus(order.id, "changing", 1.0, 2.0, profile="first.yaml"))
    code, _, err = corral(f"apply -n s -p {written(place.parent, **CHANGED)}")
    assert (code, "a change (first.yaml) is under way" in err) == (16, True)


def test_where_nothing_runs_or_not_yet_there_is_nothing_to_change(place: Path, corral: Corral) -> None:
    profile = written(place.parent, **CHANGED)
    assert corral(f"apply -n other -p {profile}")[0] == 4
    ChangeFolder(place / FOLDER).path.rmdir()
    code, _, err = corral(f"apply -n s -p {profile}")
    assert (code, "takes no changes" in err) == (4, True)


def test_status_tells_of_the_last_change(place: Path, corral: Corral) -> None:
    assert json.loads(corral("status -n s --json")[1])["change"] is None
    ChangeFolder(place / FOLDER).tell(ChangeStatus("1", "gone back", 1.0, 2.0, "models.b: no weights", "mine.yaml"))
    assert "has gone back: models.b: no weights" in corral("status -n s")[1]
    assert json.loads(corral("status -n s --json")[1])["change"]["phase"] == "gone back"
