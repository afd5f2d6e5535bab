"""Submitting: what is refused before, what lies in the folders, and that nothing is submitted twice."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.access.config import AccessConfig
from app.access.key_store import KeyStore
from app.access.place import keys_file, own_key_file
from app.access.tls import tls_folder
from app.allocation.records import ServiceJob
from app.launch import LaunchError
from app.retrieval.folder import rag_folder
from app.settings import Settings, SettingsError
from app.submission.actions import join
from app.submission.connect import OwnKey, own_key
from app.submission.mounts import file_system
from app.submission.preview import preview
from app.submission.spec import cache_folders, job_spec, joiner
from app.submission.state import find, remembered
from slurm.errors import Refused, SlurmMissing, Unavailable, Unsure
from slurm.script import render
from tests.unit.access_fakes import taken
from tests.unit.slurm_fake import client, no_sleep
from tests.unit.submission import MODELS, Site, settings

HUB = {"big": {"source": "meta-llama/Llama-3.1-8B-Instruct", "hardware": {"kind": "cpu"}}}
GPU = {"small": {"source": "pocket:pocket-1b", "hardware": {"gpu_type": "H200"}}}
SECRET = "hf_never_in_a_script"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("CORRAL_STATE_DIR", str(tmp_path / "state"))
    return Site.at(tmp_path)


async def test_a_submission_leaves_its_folder_and_its_name(site: Site) -> None:
    submitted = await site.submit()
    job, folder = submitted.job, site.folder
    assert (submitted.job_id, job.service, folder.latest()) == (7, folder, job)
    assert site.slurm.asked_for("sbatch") == [("sbatch", "--parsable", str(job.script))]
    row = site.slurm.jobs[7]
    assert (row["Name"], row["Comment"]) == ("corral-herd", f"corral:{folder.path}")
    assert Settings.model_validate_json(folder.settings.read_text()) == site.settings()
    assert folder.settings.stat().st_mode & 0o777 == 0o600
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert job.timeline.read_text().startswith(f"{site.clock():.3f} submitted ")
    assert await find("herd", client(site.slurm)) == folder
    assert [known.profile for known in remembered()] == ["mine.yaml"]


async def test_the_first_submission_makes_a_key_that_only_its_owner_reads(site: Site) -> None:
    await site.submit()
    keys, key = (site.folder.path.with_name(name) for name in ("keys.json", "first-key"))
    assert {path.stat().st_mode & 0o777 for path in (keys, key)} == {0o600}
    found = taken(KeyStore(keys).load(), key.read_text().strip(), site.clock())
    assert found is not None
    assert (found.name, found.created) == ("first", site.clock())
    before = keys.read_bytes()
    await site.submit(name="other")
    assert keys.read_bytes() == before


async def test_the_keys_file_is_written_so_that_the_job_finds_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = site.settings().model_copy(update={"access": AccessConfig(file=Path("mine/keys.json"))})
    submitted = await site.submit(settings)
    written = Settings.model_validate_json(site.folder.settings.read_text())
    assert written.access.file == tmp_path / "mine/keys.json"
    assert own_key(submitted.job.service) == OwnKey(tmp_path / "mine/first-key")


async def test_a_path_with_a_space_reaches_the_shell_whole(site: Site, tmp_path: Path) -> None:
    """The shell that reads the hints gets the key, on the login machine and through ssh."""
    folder = tmp_path / "my keys"
    submitted = await site.submit(
        site.settings().model_copy(update={"access": AccessConfig(file=folder / "keys.json")})
    )
    key = own_key(submitted.job.service)
    assert key is not None
    text = (folder / "first-key").read_text().strip()
    said = f'"$CORRAL_API_KEY" {key.header} "{key.there("me@login")}"'
    line = f'ssh() {{ shift; sh -c "$*"; }}; {key.export}; printf "%s\\n" {said}'
    shell = await asyncio.create_subprocess_exec("bash", "-c", line, stdout=asyncio.subprocess.PIPE)
    out, _ = await shell.communicate()
    assert out.decode().splitlines() == [text, "-H", f"Authorization: Bearer {text}", text]


async def test_the_script_runs_our_agent_and_has_no_secrets(site: Site) -> None:
    models = {"small": {**MODELS["small"], "env": {"HF_TOKEN": SECRET}}}
    submitted = await site.submit(site.settings(models, python="/opt/x/python", account="me"))
    script = submitted.job.script.read_text()
    assert SECRET not in script
    assert SECRET in site.folder.settings.read_text()
    assert SECRET not in (site.shared.parent / "state" / "slurm-herd.json").read_text()
    assert "app.allocation.node" in script
    assert "#SBATCH --account=me" in script
    assert "export HF_HUB_OFFLINE=1" in script
    assert "export HOME" not in script
    bash = await asyncio.create_subprocess_exec("bash", "-n", submitted.job.script)
    assert await bash.wait() == 0


def test_a_container_gets_a_home_and_reads_only_its_weights(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    made = settings(
        tmp_path / "shared", {"a": {"source": str(weights), "hardware": {"kind": "cpu"}}},
        container={"kind": "apptainer", "image": "/x.sif"},
    )  # fmt: skip
    spec = job_spec(made, ServiceJob(tmp_path / "shared/corral-me/herd/jobs/one"), "herd")
    assert spec.read_only == (weights,)
    assert spec.env["HOME"] == str(tmp_path / "shared/corral-me/home")
    assert f"--bind={weights}:{weights}:ro" in render(spec)


# --- what is refused before anything is submitted ---


@pytest.mark.parametrize(
    ("models", "cluster", "told"),
    [
        (MODELS, {"partition": "gpus"}, "cluster.partition: there is no partition 'gpus'; there are debug, gpu"),
        (MODELS, {"walltime": "2-00:00:00"}, "cluster.walltime: 2-00:00:00 is past the limit of partition debug"),
        (
            MODELS,
            {"partition": "gpu", "groups": [{"gpus": 9}]},
            "cluster.groups.main.gpus: 9 is more than any node of partition gpu has; at most 8",
        ),
        (MODELS, {"groups": [{"nodes": 4}]}, "cluster.groups.main.nodes: 4 is more than the 3 such nodes"),
        (MODELS, {"shared": "/nowhere/at/all"}, "cluster.shared: there is no folder /nowhere/at/all; name one that"),
        (
            {"small": {**MODELS["small"], "lora": {"adapters": {"tuned": "/nowhere/else"}}}},
            {},
            "models.small.lora.adapters.tuned: there is no folder /nowhere/else",
        ),
        (HUB, {}, "models.big.source: meta-llama/Llama-3.1-8B-Instruct is not fetched yet; `corral fetch big` does it"),
        (GPU, {"groups": [{}]}, "cluster.groups: main has no GPUs, but models.small needs 1; set gpus on a group"),
        (GPU, {"partition": "debug"}, "models.small.hardware: no node of partition debug has GPUs"),
        ({"small": {**MODELS["small"], "hardware": {"kind": "cpu", "labels": {"tier": "big"}}}}, {},
         "models.small.hardware.labels: no group has tier=big; cluster.groups offer group=main"),
    ],
)  # fmt: skip
async def test_bad_input_names_its_field(site: Site, models: Any, cluster: Any, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        await site.submit(settings(**{"shared": site.shared, "models": models, **cluster}))
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
    assert site.slurm.asked_for("sbatch") == []
    assert list(site.shared.iterdir()) == []


async def test_a_profile_without_a_cluster_says_what_to_add(site: Site) -> None:
    with pytest.raises(SettingsError, match="the profile says nothing of SLURM; add cluster: "):
        await site.submit(Settings(models=MODELS))


@pytest.mark.parametrize("name", ["", "../x", ".x", "a/b", "weights", "first-key", "keys.json"])
async def test_a_name_that_is_no_folder_is_refused(site: Site, name: str) -> None:
    with pytest.raises(SettingsError, match="--name: "):
        await site.submit(name=name)


async def test_a_name_of_what_lies_beside_the_services_is_refused(site: Site) -> None:
    """Certificates, documents, caches and keys keep their places, whatever people call their services."""
    made = site.settings()
    others = {tls_folder(made, "n1").parent, rag_folder(made), *cache_folders(site.folder)}
    others |= {keys_file(made), own_key_file(made)}
    assert {each.parent for each in others} == {site.folder.path.parent}
    for name in sorted(each.name for each in others):
        with pytest.raises(SettingsError, match=f"--name: '{name}' cannot be a service's name"):
            await site.submit(name=name)
    assert site.slurm.asked_for("sbatch") == []


async def test_without_slurm_nothing_is_written(site: Site) -> None:
    site.slurm.missing = True
    with pytest.raises(SlurmMissing, match="is not on PATH: run this on a login node"):
        await site.submit()
    assert list(site.shared.iterdir()) == []


async def test_what_sbatch_refuses_leaves_no_job(site: Site) -> None:
    site.slurm.refusal = "Invalid account or account/partition combination specified"
    with pytest.raises(Refused, match="account: Batch job submission failed: Invalid account"):
        await site.submit()
    assert site.folder.all_jobs() == []


async def test_a_second_submission_names_the_first(site: Site) -> None:
    await site.submit()
    with pytest.raises(LaunchError, match=r"job 7 of 'herd' still waits or runs \(PENDING\); `corral slurm down` ends"):
        await site.submit()
    assert (await site.submit(name="herd2")).job_id == 8
    site.slurm.end(7)
    assert (await site.submit()).job_id == 9


async def test_a_disk_of_one_machine_is_only_warned_of(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("app.submission.checks.file_system", lambda _: "ext4")
    await site.submit(warn=said.append)
    assert said[0].startswith(f"warning: cluster.shared: {site.shared} is on ext4")
    assert said[1].startswith("warning: cluster.python: ")


def test_the_deepest_mount_counts() -> None:
    mounts = "/dev/a / ext4 rw 0 0\nnas:/x /scr\\040atch nfs4 rw 0 0\ntmpfs /scr\\040atch/mem tmpfs rw 0 0\n"
    assert [file_system(Path(path), mounts) for path in ("/x", "/scr atch/me", "/scr atch/mem/x")] == [
        "ext4", "nfs4", "tmpfs",
    ]  # fmt: skip
    assert file_system(Path("/x"), "") == ""


# --- weights ---


async def test_hub_ids_become_the_folders_they_were_fetched_into(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "app.fetch.staged_source", lambda source, folder: folder / "weights" / source.replace("/", "--")
    )
    await site.submit(site.settings(HUB))
    written = Settings.model_validate_json(site.folder.settings.read_text())
    assert written.models["big"].source == str(site.folder.path.parent / "weights/meta-llama--Llama-3.1-8B-Instruct")


# --- answers that were lost ---


async def test_a_lost_answer_is_looked_for_and_never_repeated(site: Site) -> None:
    site.slurm.loses_answers = True
    submitted = await site.submit()
    assert submitted.job_id == 7
    record = submitted.job.record()
    assert record is not None
    assert record.job_id == 7
    assert len(site.slurm.asked_for("sbatch")) == 1


async def test_a_submission_that_never_arrived_is_not_repeated_either(site: Site) -> None:
    site.slurm.loses_answers = site.slurm.takes_no_jobs = True
    with pytest.raises(
        Unsure,
        match="whether the job was taken, so it was not submitted again; `corral slurm list` shows whether it came",
    ):
        await site.submit()
    assert len(site.slurm.asked_for("sbatch")) == 1


async def test_a_controller_that_is_away_is_told(site: Site) -> None:
    site.slurm.silent = True
    with pytest.raises(Unavailable):
        await site.submit()
    assert list(site.shared.iterdir()) == []


# --- joiners, previews ---


async def test_a_joiner_is_a_job_of_one_node_that_names_its_main_job(site: Site) -> None:
    main = await site.submit(site.settings(groups=[{"nodes": 2, "cpus": 2}]))
    site.slurm.start(7, TimeLeft="30:00")
    joined = await join(site.folder, client(site.slurm), None, no_sleep)
    record, script = joined.job.record(), joined.job.script.read_text()
    assert record is not None
    assert (record.job_id, record.kind, record.joins) == (8, "joiner", str(main.job.path))
    assert joined.job.joined() == main.job
    assert "#SBATCH --nodes=1\n" in script
    assert "#SBATCH --time=0-00:30:00\n" in script
    assert "#SBATCH --no-requeue\n" in script
    assert site.folder.latest() == main.job


async def test_a_joiner_needs_a_group_and_time(site: Site) -> None:
    main = await site.submit()
    with pytest.raises(SettingsError, match="there is no group 'x'; there are main"):
        joiner(site.settings(), main.job, "x", timedelta(hours=1))
    with pytest.raises(ValueError, match="only 60 s of the job are left"):
        joiner(site.settings(), main.job, "main", timedelta(minutes=1))


async def test_a_preview_says_what_the_cluster_cannot_give(site: Site) -> None:
    shown = await preview(site.settings(walltime="3-0"), "herd", client(site.slurm))
    assert shown.script.startswith("#!/bin/bash")
    assert shown.problems[0].startswith("cluster.walltime: ")
    assert set(json.loads(json.dumps(shown.to_json()))) == {"script", "problems", "notes"}
    site.slurm.missing = True
    shown = await preview(site.settings(walltime="3-0"), "herd", client(site.slurm))
    assert (shown.problems, len(shown.notes)) == ((), 1)
    assert list(site.shared.iterdir()) == []
