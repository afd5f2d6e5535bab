"""Staged weights on a node's own disk: copied where a model may land, linked elsewhere, gone at the end."""

from __future__ import annotations

import os
from pathlib import Path

from app.allocation.agent import Agent, local_weights, with_copies
from app.allocation.local_folder import remove_stale
from app.allocation.records import NodeRecord, ServiceFolder
from app.settings import Settings
from slurm.allocation import Allocation


def agent(tmp_path: Path, **cluster: object) -> Agent:
    """A node of the group `main`, with one model for it and one for another."""
    shared = tmp_path / "shared"
    for name in ("mine", "other"):
        (shared / name).mkdir(parents=True)
        (shared / name / "config.json").write_text(f'{{"name": "{name}"}}')
    settings = Settings.model_validate(
        {
            "models": {
                "mine": {"source": str(shared / "mine"), "hardware": {"labels": {"group": "main"}}},
                "other": {"source": str(shared / "other"), "hardware": {"labels": {"group": "big"}}},
                "embedded": {"source": "pocket:pocket-1b"},
            },
            "cluster": {"walltime": "1:00:00", "shared": shared, "local": tmp_path / "disk", **cluster},
        }
    )
    (tmp_path / "disk").mkdir()
    service = ServiceFolder(tmp_path / "service")
    (service.path).mkdir()
    service.create()
    job = service.new_job()
    assert settings.cluster
    group = settings.cluster.groups[0]
    allocation = Allocation(job_id=7, groups=(("n1",),))
    return Agent(job, job, settings, allocation, "n1", group, tmp_path, "10.0.0.1")


async def test_a_model_that_lands_here_is_copied_and_another_linked(tmp_path: Path) -> None:
    node = agent(tmp_path, copy_weights=True)
    lock = await node.copy_weights()
    assert lock is not None
    folders = {Path(source).name: target for source, target in local_weights(node.settings, node.main).items()}
    assert folders.keys() == {"mine", "other"}
    assert not folders["mine"].is_symlink()
    assert folders["mine"].is_relative_to(tmp_path / "disk")
    assert folders["other"].is_symlink()
    assert [(folders[name] / "config.json").read_text() for name in folders] == [
        '{"name": "mine"}',
        '{"name": "other"}',
    ]
    assert "weights copied n1" in node.main.timeline.read_text()
    record = NodeRecord.read(node.main.node_file("n1", "main"))
    assert record is not None
    assert record.phase == "copying weights"
    assert record.detail == f"{folders['mine'].name} 100 %"

    sources = {key: spec.source for key, spec in with_copies(node.settings, node.main).models.items()}
    assert sources == {"mine": str(folders["mine"]), "other": str(folders["other"]), "embedded": "pocket:pocket-1b"}

    assert remove_stale(os.getuid(), tmp_path / "disk") == []
    lock.close()
    node.remove_weights()
    assert list((tmp_path / "disk").iterdir()) == []
    assert (tmp_path / "shared/other/config.json").exists()


async def test_without_being_asked_nothing_is_copied(tmp_path: Path) -> None:
    node = agent(tmp_path)
    assert await node.copy_weights() is None
    assert list((tmp_path / "disk").iterdir()) == []
    assert with_copies(node.settings, node.main) == node.settings
